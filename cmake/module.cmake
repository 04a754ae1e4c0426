# plumb_module(NAME DEPENDS other modules... LINK libraries...): one static library for a folder of src/. A module may
# include only the modules that it lists, so the linker keeps the direction of dependencies in docs/architecture.md. SOURCES
# replaces "every .cpp of this folder"; a PRIVATE_MODULE is not part of the installed library.
function(plumb_warnings target)
  set(warnings -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wno-missing-field-initializers)
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    # GCC 12 reports both for correct uses of std::string at -O3: https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105651
    list(APPEND warnings -Wno-restrict -Wno-maybe-uninitialized)
    if(CMAKE_UNITY_BUILD)  # GCC takes a unity file's unnamed namespaces for those of a header
      list(APPEND warnings -Wno-subobject-linkage)
    endif()
  endif()
  if(PLUMB_WERROR)
    list(APPEND warnings -Werror)
  endif()
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:C,CXX>:${warnings}>)
endfunction()

if(PLUMB_SANITIZE)
  # Without object-size: AddressSanitizer finds the same faults, and object-size takes as long to compile as everything else.
  add_compile_options(-fsanitize=address,undefined -fno-sanitize=object-size -fno-sanitize-recover=all
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    # Large functions call AddressSanitizer's checks instead of repeating them: the vector kernels compile in half the time.
    add_compile_options("SHELL:-mllvm -asan-instrumentation-with-call-threshold=50")
  endif()
endif()

function(plumb_module name)
  cmake_parse_arguments(ARG "PRIVATE_MODULE" "" "DEPENDS;LINK;SOURCES" ${ARGN})
  set(sources ${ARG_SOURCES})
  if(NOT sources)
    file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  endif()
  if(NOT sources)
    set(sources ${CMAKE_BINARY_DIR}/empty.cpp)
    file(TOUCH ${sources})
  endif()
  add_library(plumb_${name} STATIC ${sources})
  target_include_directories(plumb_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>
                                                  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
  list(TRANSFORM ARG_DEPENDS PREPEND plumb_)
  target_link_libraries(plumb_${name} PUBLIC ${ARG_DEPENDS} ${ARG_LINK})
  plumb_warnings(plumb_${name})
  if(NOT ARG_PRIVATE_MODULE)
    set_property(GLOBAL APPEND PROPERTY PLUMB_MODULES plumb_${name})
  endif()
endfunction()

# Puts a file into the program, between <symbol>_begin and <symbol>_end; a zero byte follows it.
function(plumb_embed target symbol file)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.S)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/embedded.S.in ${source} @ONLY)
  set_source_files_properties(${source} PROPERTIES OBJECT_DEPENDS ${file})
  target_sources(${target} PRIVATE ${source})
endfunction()
