# The two programs and the benches.
file(GLOB tandem_main CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cli/main.c)
file(GLOB worker_main CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/worker_main.c)
if(tandem_main)
    add_executable(tandem ${tandem_main})
    target_link_libraries(tandem PRIVATE tandem_front tandem_base)
endif()

if(TANDEM_LLAMA AND worker_main)
    add_executable(tandem-worker ${worker_main})
    target_link_libraries(tandem-worker PRIVATE tandem_worker_lib tandem_llama tandem_base)
    set_target_properties(tandem-worker PROPERTIES LINKER_LANGUAGE CXX)
endif()

# bench/NAME.c becomes build/bench/NAME; llama_NAME.c links the engine as well.
file(GLOB benches CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bench/*.c)
foreach(file ${benches})
    get_filename_component(name ${file} NAME_WE)
    if(name MATCHES "^llama_" AND NOT TANDEM_LLAMA)
        continue()
    endif()
    add_executable(bench_${name} ${file})
    target_link_libraries(bench_${name} PRIVATE tandem_front tandem_worker_lib tandem_base)
    if(name MATCHES "^llama_")
        target_link_libraries(bench_${name} PRIVATE tandem_llama)
        set_target_properties(bench_${name} PROPERTIES LINKER_LANGUAGE CXX)
    endif()
    set_target_properties(bench_${name} PROPERTIES
        OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
endforeach()

# What `make` builds: the programs without tests and benches.
add_custom_target(programs)
foreach(program tandem tandem-worker)
    if(TARGET ${program})
        add_dependencies(programs ${program})
    endif()
endforeach()
