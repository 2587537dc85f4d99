# tests/NAME_test.c          one cmocka program each (llama_*: with the engine)
# tests/fuzz_NAME.c          libFuzzer target with TANDEM_FUZZ, else replayed over tests/corpus/NAME
# tests/e2e_NAME.sh          the real programs on loopback
# tests/check_NAME.sh        checks of the checkers under scripts/
# A script that ends with 77 says that it cannot run here, and CTest lists it as skipped.
set(test_dir ${CMAKE_SOURCE_DIR}/tests)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
pkg_check_modules(cmocka IMPORTED_TARGET cmocka)
if(NOT cmocka_FOUND)
    message(FATAL_ERROR "library cmocka is missing: run make deps")
endif()

# Under user-mode emulation a test cannot start another program of the emulated machine; tests that
# need to do that ask for this variable and say that they skip.
if(CMAKE_CROSSCOMPILING)
    set(emulated "TANDEM_EMULATED=1")
endif()
set(test_environment
    ${emulated}
    "TANDEM_BIN=${CMAKE_BINARY_DIR}"
    "TANDEM_SOURCE=${CMAKE_SOURCE_DIR}"
    "ASAN_OPTIONS=detect_leaks=1:abort_on_error=1"
    "UBSAN_OPTIONS=print_stacktrace=1"
    "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:suppressions=${test_dir}/tsan.supp")
# The programs' own variables, which are those of whoever runs the tests. The tests' model is in TANDEM_TEST_MODEL
# (scripts/with-model.sh).
set(test_unset "TANDEM_MODEL=unset:;TANDEM_IMAGE_MODEL=unset:")

# Seconds of what takes long, on two cores. It begins first, so that no core is left alone with it at the end.
set(long
    e2e_faults 120 e2e_train 70 e2e_image 60 e2e_privacy 40 e2e_bench 38 e2e_check 38 e2e_spread 33 e2e_ssh 33 e2e_clients_python 30
    llama_media_test 30 e2e_smoke 28 e2e_bench_grid 26 e2e_fleet 26 e2e_tuned 26 e2e_slurm 26 worker_test 24
    e2e_media 23 e2e_models 22 e2e_gateway 21 e2e_generated 21 e2e_upstream_servers 20 worker_memory_test 18
    jobs_run_test 17 worker_order_test 16 e2e_plan_simulate 16 llama_home_test 15 e2e_clients_js 14 e2e_several 14
    llama_keep_test 13 e2e_clients_agents 13 e2e_discover 13 kv_test 12 e2e_peft 12 image_worker_test 11
    image_model_gradients 11 e2e_image_jobs 11 wire_test 10 sim_test 10 gateway_fleet_test 9)

function(test_register name)
    set_tests_properties(${name} PROPERTIES TIMEOUT 300 SKIP_RETURN_CODE 77
        ENVIRONMENT "${test_environment}" ENVIRONMENT_MODIFICATION "${test_unset}")
    list(FIND long ${name} at)
    if(at GREATER -1)
        math(EXPR at "${at} + 1")
        list(GET long ${at} seconds)
        set_tests_properties(${name} PROPERTIES COST ${seconds})
    endif()
endfunction()

set(rooms tandem_front tandem_worker_lib)

file(GLOB units CONFIGURE_DEPENDS ${test_dir}/*_test.c)
foreach(file ${units})
    get_filename_component(name ${file} NAME_WE)
    if(name MATCHES "^llama_" AND NOT TANDEM_LLAMA)
        continue()
    endif()
    add_executable(${name} ${file})
    target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
    target_link_libraries(${name} PRIVATE ${rooms} tandem_base PkgConfig::cmocka)
    if(name MATCHES "^llama_")
        target_link_libraries(${name} PRIVATE tandem_train tandem_llama)
        set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
        add_test(NAME ${name} COMMAND ${CMAKE_SOURCE_DIR}/scripts/with-model.sh $<TARGET_FILE:${name}>)
        test_register(${name})
        set_tests_properties(${name} PROPERTIES FIXTURES_REQUIRED model)
    else()
        add_test(NAME ${name} COMMAND ${name})
        test_register(${name})
    endif()
endforeach()

# tests/fakes/NAME.c         stand-ins for libraries that are loaded at run time: tests/libfake_NAME.so
file(GLOB fakes CONFIGURE_DEPENDS ${test_dir}/fakes/*.c)
foreach(file ${fakes})
    get_filename_component(name ${file} NAME_WE)
    add_library(fake_${name} MODULE ${file})
    target_link_libraries(fake_${name} PRIVATE tandem_options)
    set_target_properties(fake_${name} PROPERTIES SUFFIX .so
        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    foreach(test facts power discover gateway_discover)
        add_dependencies(${test}_test fake_${name})
    endforeach()
endforeach()

# The trainer of the image tests' model: its gradients against differences.
add_test(NAME image_model_gradients COMMAND image_model check)
test_register(image_model_gradients)

file(GLOB fuzzers CONFIGURE_DEPENDS ${test_dir}/fuzz_*.c)
foreach(file ${fuzzers})
    get_filename_component(target ${file} NAME_WE)
    string(REGEX REPLACE "^fuzz_" "" name ${target})
    if(TANDEM_FUZZ)
        add_executable(${target} ${file})
        target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    else()
        add_executable(${target} ${file} ${test_dir}/replay_main.c)
        add_test(NAME replay_${name} COMMAND ${target} ${test_dir}/corpus/${name})
        test_register(replay_${name})
    endif()
    target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR})
    target_link_libraries(${target} PRIVATE ${rooms} tandem_base)
endforeach()

file(GLOB checks CONFIGURE_DEPENDS ${test_dir}/check_*.sh)
foreach(file ${checks})
    get_filename_component(name ${file} NAME_WE)
    add_test(NAME ${name} COMMAND ${file} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    test_register(${name})
endforeach()

# End to end: the real programs on loopback. Without the model library only those that are content
# with the fake engine.
#
# Each has folders and ports of its own, and most wait more than they compute or have engines of one thread: they run side
# by side. Alone: what holds measured times against predicted ones, and the emulated pair, which says that a machine is
# too unsteady for it where steps do not keep their times.
set(e2e_alone e2e_plan_simulate e2e_bench)
# These install packages for the tests, the first time.
set(e2e_installing e2e_clients_python e2e_clients_js e2e_clients_agents e2e_generated e2e_privacy)
function(e2e_register script)
    get_filename_component(name ${script} NAME_WE)
    add_test(NAME ${name} COMMAND ${ARGN} ${script})
    test_register(${name})
    # The first run on a machine also makes or fetches the models that some of them need.
    set_tests_properties(${name} PROPERTIES TIMEOUT 1200)
    if(name IN_LIST e2e_alone)
        set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
    endif()
    if(name IN_LIST e2e_installing)
        set_tests_properties(${name} PROPERTIES RESOURCE_LOCK packages)
    endif()
    if(TANDEM_LLAMA)
        set_tests_properties(${name} PROPERTIES FIXTURES_REQUIRED model)
    endif()
endfunction()

file(GLOB scripts CONFIGURE_DEPENDS ${test_dir}/e2e_*.sh)
if(TARGET tandem AND TARGET tandem-worker AND TANDEM_LLAMA)
    add_test(NAME front_links_no_llama
             COMMAND ${CMAKE_SOURCE_DIR}/scripts/check-symbols.sh $<TARGET_FILE:tandem>
                     $<TARGET_FILE:tandem-worker>)
    test_register(front_links_no_llama)

    # Gets the bench model first, if it is not in the cache folder yet.
    add_test(NAME model COMMAND ${CMAKE_SOURCE_DIR}/scripts/model.sh)
    test_register(model)
    set_tests_properties(model PROPERTIES FIXTURES_SETUP model TIMEOUT 1800)
    # Builds llama.cpp's generator of tiny models, once per machine; minutes that no test should spend.
    add_test(NAME model_generator COMMAND ${CMAKE_COMMAND} -DBACKEND=${TANDEM_BACKEND}
             -DEXTRA=test-llama-archs -P ${CMAKE_SOURCE_DIR}/scripts/llama.cmake)
    test_register(model_generator)
    set_tests_properties(model_generator PROPERTIES FIXTURES_SETUP model TIMEOUT 1800)
    foreach(file ${scripts})
        e2e_register(${file} ${CMAKE_SOURCE_DIR}/scripts/with-model.sh)
    endforeach()
elseif(TARGET tandem AND TARGET tandem-worker AND NOT CMAKE_CROSSCOMPILING)
    list(FILTER scripts INCLUDE REGEX "e2e_(faults|gateway|models|plan)")
    foreach(file ${scripts})
        e2e_register(${file})
    endforeach()
endif()
