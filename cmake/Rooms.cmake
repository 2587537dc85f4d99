# The rooms of src/ as static libraries. A room that has no files yet becomes an empty interface
# library, so that every combination of rooms links.
if(APPLE)
    set(other_system linux)
else()
    set(other_system darwin)
endif()

# sources(OUT pattern...): C and C++ files under src/ that match, without those of other systems.
function(sources out)
    set(found)
    foreach(pattern ${ARGN})
        file(GLOB some CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${pattern})
        list(APPEND found ${some})
    endforeach()
    list(FILTER found EXCLUDE REGEX "(/|_)${other_system}\\.c$")
    set(${out} ${found} PARENT_SCOPE)
endfunction()

# room(NAME SOURCES file... LINKS library...)
function(room name)
    cmake_parse_arguments(arg "" "" "SOURCES;LINKS" ${ARGN})
    if(arg_SOURCES)
        add_library(${name} STATIC ${arg_SOURCES})
        target_link_libraries(${name} PUBLIC tandem_options ${arg_LINKS})
    else()
        add_library(${name} INTERFACE)
        target_link_libraries(${name} INTERFACE tandem_options ${arg_LINKS})
    endif()
endfunction()

set(llama_files "/engine/(llama|probe|engine_open|quantize|only_fake)[^/]*$")

sources(base base/*.c os/*.c net/*.c models/*.c jobs/*.c wire/*.c kv/*.c sched/*.c engine/*.c node/acceptor.c node/message*.c node/options.c)
list(FILTER base EXCLUDE REGEX ${llama_files})
room(tandem_base SOURCES ${base} LINKS tandem_libs)

# Pictures: requests, files, and the worker from the outside. Its inside (draw*) is cmake/StableDiffusion.cmake's.
sources(image image/*.c)
list(FILTER image EXCLUDE REGEX "/image/draw[^/]*$")
room(tandem_image SOURCES ${image} LINKS tandem_base)

# Which memory a model takes depends on what computes it.
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/cli/models.c PROPERTIES
    COMPILE_DEFINITIONS "TANDEM_BACKEND=\"${TANDEM_BACKEND}\"")
sources(front node/supervisor*.c node/images*.c gateway/*.c plan/*.c cli/*.c)
list(FILTER front EXCLUDE REGEX "/cli/main\\.c$")
room(tandem_front SOURCES ${front} LINKS tandem_image tandem_base)

sources(worker node/*.c)
list(FILTER worker EXCLUDE REGEX "/node/(supervisor|images|message|options|acceptor)[^/]*$")
room(tandem_worker_lib SOURCES ${worker} LINKS tandem_base)
