# Writes the kernels of src/backends/gpu/kernels as plain Metal text to OUT, with the preprocessor of CXX; and the same text
# without its [[attributes]], line for line, to STRIPPED: what a C++ compiler can read.
execute_process(
  COMMAND ${CXX} -E -P -x c++ -DPLUMB_TARGET_METAL -I${SOURCE} ${SOURCE}/backends/gpu/kernels/all.h
  OUTPUT_VARIABLE text ERROR_VARIABLE messages RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "the kernels do not expand: ${messages}")
endif()
file(WRITE ${OUT} "#include <metal_stdlib>\nusing namespace metal;\n${text}")
string(REGEX REPLACE "\\[\\[[^]]*\\]\\]" "" text "${text}")
file(WRITE ${STRIPPED} "#include <metal_stdlib>\nusing namespace metal;\n${text}")
