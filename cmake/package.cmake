# `cpack` in the build folder makes two packages for the Debian release that it runs on (and, as .tar.gz, for later systems):
#   plumb_VERSION_ARCH.deb         needs Debian's shared libraries, which apt installs with it
#   plumb-VERSION-Linux-ARCH.tar.gz  brings these libraries along: it runs where it is unpacked
# Neither needs CUDA, nor a driver: the backend is part of the program where nvcc was found, and looks for both when it starts.
if(NOT CMAKE_SYSTEM_NAME STREQUAL Linux)
  return()
endif()
# DT_RPATH, not DT_RUNPATH: the bundled libraries find each other by it as well. $ORIGIN needs /proc, which a bare chroot lacks; there the
# usual places work.
set(bundled_dir ${CMAKE_INSTALL_LIBDIR}/plumb)
file(RELATIVE_PATH from_program /${CMAKE_INSTALL_BINDIR} /${bundled_dir})
set_target_properties(plumb_program PROPERTIES INSTALL_RPATH "$ORIGIN/${from_program};/usr/local/${bundled_dir};/usr/${bundled_dir};/opt/plumb/${bundled_dir}")
target_link_options(plumb_program PRIVATE -Wl,--disable-new-dtags)
install(RUNTIME_DEPENDENCY_SET bundled DESTINATION ${bundled_dir} COMPONENT bundled EXCLUDE_FROM_ALL
        PRE_EXCLUDE_REGEXES "^(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|stdc[+][+]|gcc_s))[.]so")
# Their copyright notices go with them.
install(CODE "
  file(GLOB libraries \$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${bundled_dir}/*.so*)
  foreach(library IN LISTS libraries)
    get_filename_component(name \${library} NAME)
    execute_process(COMMAND dpkg-query -S */\${name} OUTPUT_VARIABLE owner COMMAND_ERROR_IS_FATAL ANY)
    string(REGEX REPLACE \":.*\" \"\" owner \"\${owner}\")
    file(COPY_FILE /usr/share/doc/\${owner}/copyright \$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${bundled_dir}/\${owner}.copyright)
  endforeach()" COMPONENT bundled EXCLUDE_FROM_ALL)

set(CPACK_GENERATOR TGZ DEB)
set(CPACK_PACKAGE_NAME plumb)
set(CPACK_PACKAGE_VENDOR Plumb)
set(CPACK_PACKAGE_CONTACT "The developers of Plumb")
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/packages)
set(CPACK_PACKAGE_FILE_NAME plumb-${PROJECT_VERSION}-${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_STRIP_FILES ON)
set(CPACK_PROJECT_CONFIG_FILE ${PROJECT_SOURCE_DIR}/cmake/package-components.cmake)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS ca-certificates)       # for `plumb pull`
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "python3, python3-pip")  # for the models that `plumb pull` takes from Python packages
include(CPack)
