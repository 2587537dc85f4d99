# Language level, warnings and sanitizers, as one interface target that all our own code links.
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})

if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
# Assertions stay on in what users run: a wrong answer is worse than a restarted worker. What a sanitizer runs needs lines
# for its reports and is compiled in half the time.
set(optimise "-O2 -g")
if(TANDEM_SANITIZE)
    set(optimise "-O1 -g1")
endif()
set(CMAKE_C_FLAGS_RELWITHDEBINFO ${optimise})
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO ${optimise})

add_library(tandem_options INTERFACE)
target_include_directories(tandem_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_definitions(tandem_options INTERFACE
    _GNU_SOURCE TANDEM_VERSION="${PROJECT_VERSION}")
target_compile_options(tandem_options INTERFACE
    -Wall -Wextra -Wconversion -Wshadow -Wvla -fstack-protector-strong)
if(TANDEM_WERROR)
    target_compile_options(tandem_options INTERFACE -Werror)
endif()
find_package(Threads REQUIRED)
target_link_libraries(tandem_options INTERFACE Threads::Threads m)

if(TANDEM_SANITIZE STREQUAL "address")
    set(sanitize -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
elseif(TANDEM_SANITIZE STREQUAL "thread")
    set(sanitize -fsanitize=thread -fno-omit-frame-pointer)
elseif(TANDEM_SANITIZE)
    message(FATAL_ERROR "TANDEM_SANITIZE=${TANDEM_SANITIZE} is not known; say address or thread")
else()
    set(sanitize)
    # Undefined first: some distributions' compilers come with it defined to another value.
    target_compile_options(tandem_options INTERFACE
        $<$<CONFIG:RelWithDebInfo>:-U_FORTIFY_SOURCE$<SEMICOLON>-D_FORTIFY_SOURCE=2>)
endif()
target_compile_options(tandem_options INTERFACE ${sanitize})
if(TANDEM_SANITIZE AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
    # What depends on how much the optimiser sees is judged where it sees most, in the build without sanitizers.
    target_compile_options(tandem_options INTERFACE -Wno-format-truncation -Wno-maybe-uninitialized)
endif()
target_link_options(tandem_options INTERFACE ${sanitize})
if(TANDEM_FUZZ)
    if(NOT CMAKE_C_COMPILER_ID MATCHES Clang)
        message(FATAL_ERROR "TANDEM_FUZZ needs clang: configure with -DCMAKE_C_COMPILER=clang")
    endif()
    target_compile_options(tandem_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
