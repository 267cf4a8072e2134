# Installs the library, the headers, the command, and what find_package(seqccl) and pkg-config need.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS seqccl EXPORT seqcclTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(SEQCCL_HAS_CUDA)
  install(TARGETS seqccl_cuda EXPORT seqcclTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endif()
install(DIRECTORY include/seqccl DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp")
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/seqccl)
if(SEQCCL_BUILD_BENCH)
  install(TARGETS seqccl_main RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/seqccl)
install(EXPORT seqcclTargets NAMESPACE seqccl:: DESTINATION ${package_folder})
get_filename_component(SEQCCL_HWY_FOLDER "${SEQCCL_HWY_LIBRARY}" DIRECTORY)
configure_package_config_file(cmake/seqcclConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/seqcclConfig.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/seqcclConfigVersion.cmake VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/seqcclConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/seqcclConfigVersion.cmake DESTINATION ${package_folder})

# The .pc file finds its prefix by its own place, so that an installed tree may be moved. An archive needs its libraries named.
file(RELATIVE_PATH SEQCCL_PC_TO_PREFIX "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/prefix")
if(BUILD_SHARED_LIBS)
  set(SEQCCL_PC_LIBS "")
else()
  set(SEQCCL_PC_LIBS " -lfmt -lhwy -pthread")
endif()
configure_file(cmake/seqccl.pc.in ${CMAKE_CURRENT_BINARY_DIR}/seqccl.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/seqccl.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
