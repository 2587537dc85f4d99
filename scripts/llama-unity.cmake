# llama.cpp's own CMake reads this after its project() (CMAKE_PROJECT_llama.cpp_INCLUDE, see llama.cmake). The two targets
# that take longest consist of many small files which all read the same large headers: those of one folder are
# compiled together, as llama.cpp does with its models. Which code comes out is the same.

# unity_join(TARGET REGEX): the sources of TARGET that match, twelve to a unit.
function(unity_join target regex)
    if(NOT TARGET ${target})
        return()
    endif()
    get_target_property(sources ${target} SOURCES)
    get_target_property(dir ${target} SOURCE_DIR)
    foreach(file ${sources})
        if(NOT file MATCHES ${regex})
            cmake_path(ABSOLUTE_PATH file BASE_DIRECTORY ${dir})
            set_source_files_properties(${file} TARGET_DIRECTORY ${target}
                PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
        endif()
    endforeach()
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
endfunction()

function(unity_join_all)
    unity_join(mtmd "models/[^/]*\\.cpp$")
    unity_join(llama-common "parsers/[^/]*\\.cpp$")
endfunction()
cmake_language(DEFER CALL unity_join_all)
