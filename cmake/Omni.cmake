# Compiler settings and the two functions every folder uses.
include_guard()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
find_package(Threads REQUIRED)
find_package(absl REQUIRED)

find_program(OMNI_CCACHE ccache)
if(OMNI_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${OMNI_CCACHE})
endif()
find_program(OMNI_MOLD mold)
if(OMNI_MOLD AND NOT OMNI_SANITIZE)
  add_link_options(-fuse-ld=mold)
endif()
if(OMNI_SANITIZE)
  add_compile_options(-fsanitize=${OMNI_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${OMNI_SANITIZE})
endif()
if(OMNI_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang)
    message(FATAL_ERROR "OMNI_FUZZ needs clang++: use the preset fuzz-clang")
  endif()
  # Coverage for the fuzzer; some files name warnings that only g++ has.
  add_compile_options(-fsanitize=fuzzer-no-link -Wno-unknown-warning-option)
endif()

# Results may not depend on which products the compiler fuses: contraction is off everywhere.
add_compile_options(-ffp-contract=off)

# omni_library(NAME SRCS a.cc ... [DEPS public ...] [PRIVATE private ...])
function(omni_library name)
  cmake_parse_arguments(arg "" "" "SRCS;DEPS;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${arg_SRCS})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_compile_options(${name} PRIVATE -Wall -Wextra -Werror)
  target_link_libraries(${name} PUBLIC ${arg_DEPS} PRIVATE ${arg_PRIVATE})
endfunction()

# omni_test(NAME SRCS a_test.cc ... DEPS ... LABEL unit|cluster|e2e|gpu|bench [GRPC] [NO_TSAN] [FIBERS]): one
# GoogleTest program, one CTest entry. GRPC: it makes gRPC calls; that library is built without the sanitizers, and
# what its inlined containers have not been told of looks like an overflow. NO_TSAN: with the thread sanitizer it is
# disabled, since there is one thread, or since gRPC's threads and OpenSSL's run its handlers and are not seen to
# synchronise. FIBERS: it throws on stacks of its own, which the sanitizers take for damage; with any of them it is
# disabled.
set(omni_tsan_options "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/tsan.supp")
function(omni_test name)
  cmake_parse_arguments(arg "GRPC;NO_TSAN;FIBERS" "LABEL;TIMEOUT" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${arg_SRCS})
  target_compile_options(${name} PRIVATE -Wall -Wextra -Werror)
  target_link_libraries(${name} PRIVATE ${arg_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT arg_LABEL)
    set(arg_LABEL unit)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 600)
  endif()
  if(OMNI_SANITIZE)
    math(EXPR arg_TIMEOUT "4 * ${arg_TIMEOUT}")
  endif()
  set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT})
  if(OMNI_SANITIZE STREQUAL thread)
    # scripts/lib/caf_tsan.sh makes the library there, and says why.
    set_tests_properties(${name} PROPERTIES ENVIRONMENT
                         "LD_LIBRARY_PATH=${CMAKE_SOURCE_DIR}/build/caf-tsan/lib;${omni_tsan_options}")
    if(arg_NO_TSAN)
      set_tests_properties(${name} PROPERTIES DISABLED TRUE)
    endif()
  elseif(OMNI_SANITIZE MATCHES address AND arg_GRPC)
    set_tests_properties(${name} PROPERTIES ENVIRONMENT "ASAN_OPTIONS=detect_container_overflow=0")
  endif()
  if(OMNI_SANITIZE AND arg_FIBERS)
    set_tests_properties(${name} PROPERTIES DISABLED TRUE)
  endif()
endfunction()
