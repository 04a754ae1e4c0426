# Read by cpack before each package: what goes into it (install.cmake has the components).
set(CPACK_COMPONENTS_ALL program)
if(CPACK_GENERATOR STREQUAL TGZ)
  list(APPEND CPACK_COMPONENTS_ALL bundled)
  set(CPACK_COMPONENT_INCLUDE_TOPLEVEL_DIRECTORY ON)
endif()
