# cmake -D ... -P: installs convt under WORK_DIR and builds a user's project against it.
file(REMOVE_RECURSE ${WORK_DIR})

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "status ${status} from: ${command}")
  endif()
endfunction()

run(${CMAKE_COMMAND} --install ${CONVT_BINARY_DIR} --component convt_library
  --prefix ${WORK_DIR}/prefix)
if(WITH_COMMAND)
  run(${CMAKE_COMMAND} --install ${CONVT_BINARY_DIR} --component convt_command
    --prefix ${WORK_DIR}/prefix)
endif()
# convt.pc holds the prefix of configure time; a moved installation overrides it this way.
file(GLOB_RECURSE pc ${WORK_DIR}/prefix/convt.pc)
cmake_path(GET pc PARENT_PATH pc_dir)
file(READ ${pc} text)
string(REGEX REPLACE "prefix=[^\n]*" "prefix=${WORK_DIR}/prefix" text "${text}")
file(WRITE ${pc} "${text}")
set(ENV{PKG_CONFIG_PATH} ${pc_dir})

run(${CMAKE_COMMAND} -G ${GENERATOR} -S ${CMAKE_CURRENT_LIST_DIR}/package_test -B ${WORK_DIR}/build
  -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_CXX_FLAGS=${CXX_FLAGS}
  -DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM} -DSTATIC_CONVT=${STATIC_CONVT} -DWITH_COMMAND=${WITH_COMMAND})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)
foreach(name IN ITEMS with_config with_pkg_config with_kernels)
  if(EXISTS ${WORK_DIR}/build/${name})
    set(ENV{LD_LIBRARY_PATH} ${WORK_DIR}/prefix/${LIBDIR})
    run(${WORK_DIR}/build/${name})
  endif()
endforeach()
