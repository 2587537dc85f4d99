// tandem-image-worker OPTIONS: one loaded image model behind a socket on descriptor 3. Started by the gateway
// and by `tandem image`; what it is told and answers: image/frame.h.
#include "image/draw.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc != 2 || argv[1][0] != '{') {
        fprintf(stderr, "usage: tandem-image-worker OPTIONS (JSON; with a socket as descriptor 3)\n"
                        "Started by tandem serve and tandem image, not by hand.\n");
        return argc == 2 && strcmp(argv[1], "--help") == 0 ? 0 : 2;
    }
    return draw_main(argv[1]);
}
