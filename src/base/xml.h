// Text in XML and HTML. Pure.
#ifndef BASE_XML_H
#define BASE_XML_H

#include "base/buf.h"

// Appends `s` so that it is text wherever it stands, in an element or in a quoted attribute. Control characters,
// which have no place in XML, are left out.
void xml_text_put(struct buf *out, const char *s);

#endif
