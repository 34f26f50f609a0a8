# SPDX-License-Identifier: Apache-2.0
#
# How our own code is compiled: `ublkd_library` and `ublkd_program` give every target the same
# warnings and sanitizers; generated code is compiled without the warnings.

add_library(ublkd_warnings INTERFACE)
target_compile_options(ublkd_warnings INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wcast-qual
  -Woverloaded-virtual -Wpointer-arith -Wimplicit-fallthrough
  # g++ 12 and 14 see uninitialised strings in moved-from StatusOr where there are none.
  -Wno-maybe-uninitialized)

if(UBLKD_SANITIZE)
  add_compile_options(-fsanitize=${UBLKD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${UBLKD_SANITIZE})
  if(UBLKD_SANITIZE MATCHES thread)
    # It warns that it does not understand fences, which libraries use in their headers.
    add_compile_options(-Wno-tsan)
  endif()
endif()

# ublkd_library(<name> <source>... [DEPS <library>...]): a static library of one folder.
function(ublkd_library name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "DEPS")
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE ublkd_warnings)
endfunction()

# ublkd_program(<name> <source>... [DEPS <library>...]): an installed program.
function(ublkd_program name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "DEPS")
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} ublkd_warnings)
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# ublkd_test(<name> <source>... [DEPS <library>...]): a GoogleTest program that runs anywhere. Its
# tests run one at a time: some count what the machine has of mounts, loop devices and processes. They
# begin first (COST), so that guests run beside them.
function(ublkd_test name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "DEPS")
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main ublkd_warnings)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES LABELS unit TIMEOUT 120
    RESOURCE_LOCK machine COST 1000)
endfunction()

# ublkd_vm_test(<name> <source>... [DEPS <library>...]): a GoogleTest program that runs as root in a
# VM with a kernel of its own; it is installed into the VM's payload, never run on the host.
function(ublkd_vm_test name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "DEPS")
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main ublkd_warnings)
  install(TARGETS ${name} RUNTIME DESTINATION libexec/ublkd-tests COMPONENT vm-tests EXCLUDE_FROM_ALL)
endfunction()
