# How convt's own targets are made: one static library per folder, the same flags everywhere.

set_property(GLOBAL PROPERTY CONVT_MODULES "")

# Flags for convt's own code; nothing here leaks to those who link convt.
function(convt_compile_options target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
  target_compile_options(${target} PRIVATE
    $<$<BOOL:${CONVT_WERROR}>:-Werror>
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
    # The interpreter and the references must round exactly where the source says so: an a*b+c is
    # two roundings unless written std::fma, whatever ISA the user adds to CMAKE_CXX_FLAGS.
    -ffp-contract=off)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # False positives of GCC 12's middle end in inlined std::string and std::vector code
    # (GCC PR105651, PR105562 and kin): -Wrestrict is useless there, the others only warn.
    target_compile_options(${target} PRIVATE
      -Wno-restrict -Wno-error=maybe-uninitialized -Wno-error=array-bounds
      -Wno-error=stringop-overflow -Wno-error=stringop-overread -Wno-error=free-nonheap-object)
  endif()
  if(CONVT_SANITIZE)
    target_compile_options(${target} PRIVATE
      -fsanitize=${CONVT_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${CONVT_SANITIZE})
    if(CMAKE_CXX_COMPILER_ID MATCHES "Clang" AND CONVT_SANITIZE MATCHES "undefined")
      # It reads a signature next to the callee's entry; machine code made at run time has none.
      target_compile_options(${target} PRIVATE -fno-sanitize=function)
    elseif(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # Instrumentation confuses this analysis; the plain builds keep it.
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
    endif()
  endif()
endfunction()

# convt_module(<name> [SOURCES files...] [PUBLIC libs...] [PRIVATE libs...])
# The static library of the current folder, made of all *.cpp in it, or of SOURCES. PUBLIC are the
# libraries whose headers this folder's headers include. A folder without sources yet is an
# interface library.
function(convt_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;PUBLIC;PRIVATE")
  file(GLOB sources CONFIGURE_DEPENDS *.cpp)
  if(arg_SOURCES)
    set(sources ${arg_SOURCES})
  endif()
  if(NOT sources)
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE convt_headers ${arg_PUBLIC} ${arg_PRIVATE})
    return()
  endif()
  file(GLOB headers CONFIGURE_DEPENDS *.hpp)
  add_library(${name} STATIC ${sources} ${headers})
  convt_compile_options(${name})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC convt_headers ${arg_PUBLIC} PRIVATE ${arg_PRIVATE})
  set_property(GLOBAL APPEND PROPERTY CONVT_MODULES ${name})
endfunction()
