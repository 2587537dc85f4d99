# Third-party libraries, from the system's package manager (scripts/deps.sh installs them).
find_package(PkgConfig REQUIRED)

# Puts each module behind tandem_libs; the headers count as the system's, so our warnings spare them.
add_library(tandem_libs INTERFACE)
# What a machine may lack (NVIDIA's, Bonjour's) is loaded at run time.
target_link_libraries(tandem_libs INTERFACE ${CMAKE_DL_LIBS})
function(use_module module)
    pkg_check_modules(${module} IMPORTED_TARGET ${module})
    if(NOT ${module}_FOUND)
        message(FATAL_ERROR "library ${module} is missing: run make deps")
    endif()
    target_link_libraries(tandem_libs INTERFACE PkgConfig::${module})
endfunction()

foreach(module libmicrohttpd gnutls libcurl jansson sqlite3 inih libzstd libxxhash libpng libjpeg libwebp)
    use_module(${module})
endforeach()
