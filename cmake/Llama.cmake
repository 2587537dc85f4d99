# The llama.cpp engine: gets the pinned release built (scripts/llama.cmake, kept in the cache folder
# across clones) and makes the target tandem_llama from src/engine/{llama,probe,engine_open,quantize}*.
enable_language(CXX)

if(NOT LLAMA_DIR)
    execute_process(
        COMMAND ${CMAKE_COMMAND} -DBACKEND=${TANDEM_BACKEND} -P ${CMAKE_SOURCE_DIR}/scripts/llama.cmake
        OUTPUT_VARIABLE llama_output ECHO_OUTPUT_VARIABLE RESULT_VARIABLE rc)
    if(rc OR NOT llama_output MATCHES "LLAMA_DIR=([^\n]+)")
        message(FATAL_ERROR "llama.cpp could not be built; the reason is above")
    endif()
    set(llama_dir ${CMAKE_MATCH_1})
else()
    set(llama_dir ${LLAMA_DIR})
endif()
message(STATUS "llama.cpp: ${llama_dir}")

add_library(llama_libs INTERFACE)
target_include_directories(llama_libs SYSTEM INTERFACE
    ${llama_dir}/include ${llama_dir}/include/common ${llama_dir}/include/mtmd
    ${llama_dir}/include/vendor)
file(GLOB llama_archives ${llama_dir}/lib/*.a)
if(APPLE)
    target_link_libraries(llama_libs INTERFACE ${llama_archives} "-framework Accelerate")
    if(TANDEM_BACKEND STREQUAL "metal")
        target_link_libraries(llama_libs INTERFACE
            "-framework Metal" "-framework MetalKit" "-framework Foundation")
    endif()
else()
    target_link_libraries(llama_libs INTERFACE
        -Wl,--start-group ${llama_archives} -Wl,--end-group ${CMAKE_DL_LIBS})
endif()
if(TANDEM_BACKEND STREQUAL "cuda")
    find_package(CUDAToolkit REQUIRED)
    target_link_libraries(llama_libs INTERFACE
        CUDA::cudart CUDA::cublas CUDA::cublasLt CUDA::cuda_driver)
elseif(TANDEM_BACKEND STREQUAL "vulkan")
    find_package(Vulkan REQUIRED)
    target_link_libraries(llama_libs INTERFACE Vulkan::Vulkan)
endif()

set(llama_sources)
foreach(stem llama probe engine_open quantize)
    sources(some engine/${stem}*.c engine/${stem}*.cpp)
    list(APPEND llama_sources ${some})
endforeach()
room(tandem_llama SOURCES ${llama_sources} LINKS tandem_base llama_libs)

# The native trainer's room: ggml under it, and the engine for templates and tokens.
sources(train train/*.c)
# Vectors as wide as this machine's, as ggml itself is built for it.
include(CheckCCompilerFlag)
check_c_compiler_flag(-march=native HAS_MARCH_NATIVE)
set(vectors product attention swiglu)
list(TRANSFORM vectors REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/src/train/\\1.c")
set_source_files_properties(${vectors} PROPERTIES
    COMPILE_OPTIONS "-O3;$<IF:$<BOOL:${HAS_MARCH_NATIVE}>,-march=native,-mcpu=native>")
room(tandem_train SOURCES ${train} LINKS tandem_llama)
