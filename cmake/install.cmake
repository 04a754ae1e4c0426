# Installs, by component:
#   program  the program, its manual pages, completion scripts and documentation
#   library  the headers, the libraries and a CMake package, so that find_package(plumb) gives plumb::plumb and plumb::plumb_c
#   bundled  the shared libraries that the program needs and a bare Debian lacks (package.cmake puts them into the .tar.gz)
include(CMakePackageConfigHelpers)
get_property(modules GLOBAL PROPERTY PLUMB_MODULES)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/plumb)
install(TARGETS plumb_program RUNTIME_DEPENDENCY_SET bundled RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
install(DIRECTORY ${PLUMB_SHARE_DIR}/ DESTINATION ${CMAKE_INSTALL_DATADIR} COMPONENT program)
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)

install(TARGETS plumb ${modules} EXPORT plumb_targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library)
install(TARGETS plumb_c EXPORT plumb_c_targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library)
install(DIRECTORY include/plumb DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library)
install(EXPORT plumb_targets NAMESPACE plumb:: DESTINATION ${package_dir} COMPONENT library)
install(EXPORT plumb_c_targets NAMESPACE plumb:: DESTINATION ${package_dir} COMPONENT library)
configure_package_config_file(cmake/plumb-config.cmake.in ${CMAKE_BINARY_DIR}/plumb-config.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/plumb-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/plumb-config.cmake ${CMAKE_BINARY_DIR}/plumb-config-version.cmake
        DESTINATION ${package_dir} COMPONENT library)
