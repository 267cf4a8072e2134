# Language, warnings, sanitizers, ccache: set for our own targets through seqccl_defaults(target).
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(SEQCCL_CCACHE ccache)
if(SEQCCL_CCACHE AND PROJECT_IS_TOP_LEVEL AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SEQCCL_CCACHE})
endif()

if(SEQCCL_SANITIZE)
  add_compile_options(-fsanitize=${SEQCCL_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SEQCCL_SANITIZE})
endif()

# Code that runs once (tests, the command's glue) is built quickly: half of all compile time is its templates.
function(seqccl_build_quickly target)
  if(SEQCCL_SANITIZE)
    target_compile_options(${target} PRIVATE -O0)
  elseif(NOT CMAKE_BUILD_TYPE STREQUAL Debug)
    target_compile_options(${target} PRIVATE -O1)
  endif()
endfunction()

# Several sources in one translation unit: what they share (templates of the standard library, fmt, CLI11, JSON) is compiled once,
# which takes a third of the time. `clang` and `debug` builds compile each source by itself, so that each includes what it needs.
# seqccl_unity(target [APART files...]): these files use a name that another file of the target gives to something else.
option(SEQCCL_UNITY "Compile several sources at once: quicker as a whole, slower after a change" OFF)
function(seqccl_unity target)
  cmake_parse_arguments(arg "" "" "APART" ${ARGN})
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${SEQCCL_UNITY} UNITY_BUILD_BATCH_SIZE 8)
  if(arg_APART)
    set_source_files_properties(${arg_APART} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  endif()
endfunction()

function(seqccl_defaults target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON UNITY_BUILD OFF)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wpedantic -Wno-missing-field-initializers)
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    # False alarms of GCC 12 in std::string (its bug 105651) and std::function (105562).
    target_compile_options(${target} PRIVATE -Wno-restrict -Wno-maybe-uninitialized)
  endif()
  if(SEQCCL_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()
