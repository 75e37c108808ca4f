# convt_add_kernels(<target> LAYERS <file> [TARGETS <name>...] [PREFIX <text>] [HEADER <name>]
#                   [WEIGHTS <place>] [OPTIONS <option>...])
#
# A library of kernels that `convt compile` makes of a layers file when it is built. Link <target>
# and include <target>.h (or HEADER). TARGETS are CPUs ("native", "x86-64-v3", ...), of which the
# best that the CPU can run is taken at run time; WEIGHTS a folder of <layer's name>.npy, or an .npz
# file, to be packed ahead of time. When cross-compiling, CONVT_COMMAND must be a convt of the build machine.
function(convt_add_kernels target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "LAYERS;PREFIX;HEADER;WEIGHTS" "TARGETS;OPTIONS")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "convt_add_kernels: unknown argument ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT arg_LAYERS)
    message(FATAL_ERROR "convt_add_kernels: LAYERS is needed")
  endif()
  if(NOT arg_TARGETS)
    set(arg_TARGETS native)
  endif()
  if(NOT arg_HEADER)
    set(arg_HEADER ${target}.h)
  endif()
  if(TARGET convt_cli)  # in convt's own build
    set(command convt_cli)
  elseif(CONVT_COMMAND)
    set(command ${CONVT_COMMAND})
  else()
    message(FATAL_ERROR "convt_add_kernels: the convt command was not found; set CONVT_COMMAND")
  endif()

  set(folder ${CMAKE_CURRENT_BINARY_DIR}/${target}.kernels)
  file(MAKE_DIRECTORY ${folder})
  cmake_path(ABSOLUTE_PATH arg_LAYERS)
  set(options ${arg_OPTIONS})
  set(depends ${arg_LAYERS} ${command})
  foreach(name IN LISTS arg_TARGETS)
    list(APPEND options --target ${name})
  endforeach()
  if(arg_PREFIX)
    list(APPEND options --prefix ${arg_PREFIX})
  endif()
  if(arg_WEIGHTS)
    cmake_path(ABSOLUTE_PATH arg_WEIGHTS)
    if(IS_DIRECTORY ${arg_WEIGHTS})
      file(GLOB weights CONFIGURE_DEPENDS ${arg_WEIGHTS}/*.npy)
    else()
      set(weights ${arg_WEIGHTS})
    endif()
    list(APPEND options --weights ${arg_WEIGHTS})
    list(APPEND depends ${weights})
  endif()
  set(archive ${folder}/lib${target}.a)
  set(outputs ${archive} ${folder}/${arg_HEADER} ${folder}/${target}.json)
  if(CMAKE_CROSSCOMPILING)
    list(APPEND options --runtime-source ${folder}/convt_aot.c)
    list(APPEND outputs ${folder}/convt_aot.c)
  endif()
  add_custom_command(OUTPUT ${outputs}
    COMMAND ${command} compile --layers ${arg_LAYERS} -o ${archive}
      --header ${folder}/${arg_HEADER} --manifest ${folder}/${target}.json ${options}
    DEPENDS ${depends}
    COMMENT "Compiling the kernels of ${target}"
    VERBATIM)
  add_custom_target(${target}_files DEPENDS ${outputs})

  add_library(${target} INTERFACE)
  add_dependencies(${target} ${target}_files)
  target_include_directories(${target} INTERFACE ${folder})
  target_link_libraries(${target} INTERFACE ${archive})
  if(CMAKE_CROSSCOMPILING)
    add_library(${target}_runtime STATIC ${folder}/convt_aot.c)
    add_dependencies(${target}_runtime ${target}_files)
    target_link_libraries(${target} INTERFACE ${target}_runtime)
  endif()
endfunction()
