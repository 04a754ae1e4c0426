# Writes the kernels of src/backends/gpu/kernels as plain Metal text to OUT, with the preprocessor of CXX. Writes the same text,
# line for line, without its [[attributes]] to STRIPPED, which a C++ compiler can read.
execute_process(
  COMMAND ${CXX} -E -P -x c++ -DPLUMB_TARGET_METAL -I${SOURCE} ${SOURCE}/backends/gpu/kernels/all.h
  OUTPUT_VARIABLE text ERROR_VARIABLE messages RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "the kernels do not expand: ${messages}")
endif()
# Turns off the contraction of products and sums, which would round differently than the checker; kernels that want it call
# fma. MTLCompileOptions has no option for this.
string(CONCAT head "#include <metal_stdlib>\n" #
       "#if __METAL_VERSION__ >= 320\n#pragma METAL fp contract(off)\n" #
       "#else\n#pragma STDC FP_CONTRACT OFF\n#endif\n" #
       "using namespace metal;\n")
file(WRITE ${OUT} "${head}${text}")
string(REGEX REPLACE "\\[\\[[^]]*\\]\\]" "" text "${text}")
file(WRITE ${STRIPPED} "${head}${text}")
