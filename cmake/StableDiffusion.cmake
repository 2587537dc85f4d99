# The image worker, tandem-image-worker. With TANDEM_IMAGE=source it links stable-diffusion.cpp, built once from a
# pinned release (scripts/stable-diffusion.cmake, kept in the cache folder across clones). Otherwise the
# program has only its fake engine, and pictures come from a prebuilt library that scripts/image-library.sh
# gets when it is asked to.
#
# And image_model, the program that makes the model of the image tests.
sources(draw image/draw_*.c image_worker_main.c)
if(TANDEM_IMAGE STREQUAL "source")
    list(FILTER draw EXCLUDE REGEX "/draw_none\\.c$")
    enable_language(CXX)
    execute_process(
        COMMAND ${CMAKE_COMMAND} -DBACKEND=${TANDEM_BACKEND} -P ${CMAKE_SOURCE_DIR}/scripts/stable-diffusion.cmake
        OUTPUT_VARIABLE sd_output ECHO_OUTPUT_VARIABLE RESULT_VARIABLE rc)
    if(rc OR NOT sd_output MATCHES "SD_DIR=([^\n]+)")
        message(FATAL_ERROR "stable-diffusion.cpp could not be built; the reason is above")
    endif()
    set(sd_dir ${CMAKE_MATCH_1})
elseif(TANDEM_IMAGE STREQUAL "prebuilt")
    list(FILTER draw EXCLUDE REGEX "/draw_sd\\.c$")
else()
    message(FATAL_ERROR "TANDEM_IMAGE=${TANDEM_IMAGE} is not known; say prebuilt or source")
endif()

add_executable(tandem-image-worker ${draw})
target_link_libraries(tandem-image-worker PRIVATE tandem_image tandem_base)

# What this release's API has; see src/image/draw_sd.c.
function(sd_has name code)
    include(CheckCSourceCompiles)
    set(CMAKE_REQUIRED_INCLUDES ${sd_dir}/include)
    set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
    # A call of what is not declared is an error in every compiler then.
    set(CMAKE_REQUIRED_FLAGS "-Werror=implicit-function-declaration -Werror=int-conversion")
    check_c_source_compiles("#include <stable-diffusion.h>\n${code}" sd_${name}_${sd_key})
    if(sd_${name}_${sd_key})
        target_compile_definitions(tandem-image-worker PRIVATE SD_HAS_${name})
    endif()
endfunction()

if(sd_dir)
    string(MD5 sd_key ${sd_dir})
    sd_has(CANCEL "void f(sd_ctx_t *c) { sd_cancel_generation(c, SD_CANCEL_ALL); }")
    sd_has(EAGER_LOAD "void f(sd_ctx_params_t *p) { p->eager_load = true; }")
    sd_has(VAE_DECODE_ONLY "void f(sd_ctx_params_t *p) { p->vae_decode_only = p->free_params_immediately; }")
    sd_has(PARAMS_BACKEND "void f(sd_ctx_params_t *p) { p->params_backend = 0; }")
    sd_has(OFFLOAD "void f(sd_ctx_params_t *p) { p->offload_params_to_cpu = true; }")
    sd_has(OUT_IMAGES "bool f(sd_ctx_t *c, sd_img_gen_params_t *p, sd_image_t **i, int *n) { return generate_image(c, p, i, n); }")
    sd_has(MINIT2I "int f(void) { return MINIT2I_FLOW_PRED; }")
    target_include_directories(tandem-image-worker SYSTEM PRIVATE ${sd_dir}/include)
    file(GLOB sd_archives ${sd_dir}/lib/*.a)
    if(APPLE)
        target_link_libraries(tandem-image-worker PRIVATE ${sd_archives} "-framework Accelerate")
        if(TANDEM_BACKEND STREQUAL "metal")
            target_link_libraries(tandem-image-worker PRIVATE
                "-framework Metal" "-framework MetalKit" "-framework Foundation")
        endif()
    else()
        target_link_libraries(tandem-image-worker PRIVATE
            -Wl,--start-group ${sd_archives} -Wl,--end-group ${CMAKE_DL_LIBS})
    endif()
    if(TANDEM_BACKEND STREQUAL "cuda")
        find_package(CUDAToolkit REQUIRED)
        target_link_libraries(tandem-image-worker PRIVATE
            CUDA::cudart CUDA::cublas CUDA::cublasLt CUDA::cuda_driver)
    elseif(TANDEM_BACKEND STREQUAL "vulkan")
        find_package(Vulkan REQUIRED)
        target_link_libraries(tandem-image-worker PRIVATE Vulkan::Vulkan)
    endif()
    set_target_properties(tandem-image-worker PROPERTIES LINKER_LANGUAGE CXX)
    set_source_files_properties(${CMAKE_SOURCE_DIR}/src/image/worker_process.c PROPERTIES
        COMPILE_DEFINITIONS TANDEM_IMAGE_LIBRARY=1)
endif()

# Training is all multiplications: it gets what the machine has.
file(GLOB image_model ${CMAKE_SOURCE_DIR}/tests/image_model/*.c)
add_executable(image_model ${image_model})
target_include_directories(image_model PRIVATE ${CMAKE_SOURCE_DIR})
target_link_libraries(image_model PRIVATE tandem_base)
target_compile_options(image_model PRIVATE -O3 -ffast-math)
if(NOT CMAKE_CROSSCOMPILING AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    target_compile_options(image_model PRIVATE -march=native)
endif()
