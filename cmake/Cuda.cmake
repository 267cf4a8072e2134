# CUDA kernels: compiled where nvcc is found, into a library of their own, seqccl::cuda, so that the rest needs no CUDA.
set(SEQCCL_CUDA AUTO CACHE STRING "CUDA kernels: AUTO (where nvcc is found), ON, OFF")
set(SEQCCL_CUDA_ARCHITECTURES 80 90a 100 CACHE STRING "What kernels are assembled for; PTX of the first is always there for others")
set(SEQCCL_HAS_CUDA OFF)
if(NOT SEQCCL_CUDA STREQUAL "OFF")
  find_program(SEQCCL_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin PATHS /usr/local/cuda/bin)
  if(SEQCCL_NVCC)
    set(SEQCCL_HAS_CUDA ON)
    get_filename_component(SEQCCL_CUDA_ROOT "${SEQCCL_NVCC}" REALPATH)
    get_filename_component(SEQCCL_CUDA_ROOT "${SEQCCL_CUDA_ROOT}/../.." ABSOLUTE)
  elseif(SEQCCL_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SEQCCL_CUDA is ON, but there is no nvcc: set CUDA_HOME, or SEQCCL_NVCC to its path")
  endif()
endif()
if(NOT SEQCCL_HAS_CUDA)
  return()
endif()
message(STATUS "CUDA kernels: ${SEQCCL_NVCC}")

# seqccl_cuda_objects(variable sources...): objects with code for all architectures and PTX in plain text, which the tests execute.
# ptxas says in the .log beside the object what each kernel takes; a kernel that spills registers does not compile.
function(seqccl_cuda_objects variable)
  set(objects "")
  list(GET SEQCCL_CUDA_ARCHITECTURES 0 first)
  string(REGEX REPLACE "[a-z]" "" first ${first})
  set(codes compute_${first})
  foreach(architecture ${SEQCCL_CUDA_ARCHITECTURES})
    list(APPEND codes sm_${architecture})
  endforeach()
  list(JOIN codes "," codes)
  foreach(source ${ARGN})
    get_filename_component(name ${source} NAME_WE)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.o)
    set(compile ${SEQCCL_CCACHE} ${SEQCCL_NVCC} -std=c++20 -O3 -lineinfo --expt-relaxed-constexpr
        -gencode 'arch=compute_${first},code=[${codes}]' -Xfatbin=--compress=false -Xptxas=-v,--warn-on-spills,--warning-as-error
        -Werror all-warnings -Xcompiler=-fPIC --threads 2 -I${PROJECT_SOURCE_DIR}/include -MD -MF ${object}.d -c ${source} -o ${object})
    list(JOIN compile " " compile)
    add_custom_command(
      OUTPUT ${object} ${object}.log
      COMMAND sh -c "${compile} 2>${object}.log || { cat ${object}.log >&2; exit 1; }"
      DEPENDS ${source}
      DEPFILE ${object}.d
      COMMENT "Building CUDA object ${name}.o" VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  set(${variable} ${objects} PARENT_SCOPE)
endfunction()

file(GLOB SEQCCL_CUDA_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/lib/kernels/cuda/*.cu)
seqccl_cuda_objects(SEQCCL_CUDA_OBJECTS ${SEQCCL_CUDA_SOURCES})
file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/cuda)
file(GLOB SEQCCL_CUDA_HOST CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/lib/kernels/cuda/*.cpp ${PROJECT_SOURCE_DIR}/lib/transport/cuda/*.cpp
     ${PROJECT_SOURCE_DIR}/lib/execute/cuda/*.cpp)
add_library(seqccl_cuda_host OBJECT ${SEQCCL_CUDA_HOST})
seqccl_defaults(seqccl_cuda_host)
target_include_directories(seqccl_cuda_host PUBLIC ${PROJECT_SOURCE_DIR}/include)
target_include_directories(seqccl_cuda_host SYSTEM PRIVATE ${SEQCCL_CUDA_ROOT}/include)
target_link_libraries(seqccl_cuda_host PRIVATE fmt::fmt)

# What users link beside seqccl::seqccl. Without a CUDA runtime, so that tests can put their own in its place.
add_library(seqccl_cuda STATIC $<TARGET_OBJECTS:seqccl_cuda_host> ${SEQCCL_CUDA_OBJECTS})
add_library(seqccl::cuda ALIAS seqccl_cuda)
seqccl_defaults(seqccl_cuda)
set_target_properties(seqccl_cuda PROPERTIES LINKER_LANGUAGE CXX EXPORT_NAME cuda)
set_source_files_properties(${SEQCCL_CUDA_OBJECTS} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
target_link_libraries(seqccl_cuda PUBLIC seqccl PRIVATE fmt::fmt ${CMAKE_DL_LIBS})
