# cmake -DSOURCE_DIR=... -P: fails on an #include that points the wrong way (all folders share one
# include root, so the compiler would not notice), or on a third-party header outside its folder.

# folder : what its files may include from the repository, besides their own folder
set(layers
  "include/convt:"
  "compiler/target:"
  "compiler/problem:"
  "compiler/packing:compiler/problem"
  "compiler/plan:compiler/target|compiler/problem|compiler/packing"
  "compiler/program:compiler/target|compiler/problem|compiler/packing|compiler/plan"
  "compiler/lower:compiler/target|compiler/problem|compiler/packing|compiler/plan|compiler/program"
  "compiler/backend/xbyak:compiler/target|compiler/program|compiler/backend"
  "compiler/backend/llvm:compiler/target|compiler/program|compiler/backend"
  "compiler/object:compiler/target|compiler/backend"
  "database:compiler/target|compiler/problem|compiler/plan"
  "runtime:compiler|database/tuned_plans.hpp"
  "aot/runtime:"
  "aot:compiler|runtime"
  "measuring:compiler/problem"
  "tuning:compiler/target|compiler/problem|compiler/plan|database|measuring"
  "python/src:compiler/problem|dialects"
  "dialects:compiler/problem"
  "tools:compiler|runtime|dialects|database|measuring|aot"
  "bench:compiler|runtime|dialects|measuring|tools|aot"
  "tests:compiler|runtime|dialects|database|measuring|tuning|tools|aot"
  "examples:")

# header : the folders that may include it
set(third_party
  "xbyak/:compiler/backend/xbyak"
  "llvm/:compiler/backend/llvm"
  "pthreadpool.h:runtime"
  "xxhash.h:runtime"
  "sqlite3.h:database/[^/]*\\.cpp"
  "nlohmann/:compiler/problem/[^/]*\\.cpp|database/[^/]*\\.cpp|dialects/[^/]*\\.cpp|runtime/[^/]*\\.cpp|aot/[^/]*\\.cpp|tools|tests|bench"
  "nanobind/:python"
  "Zydis/:tools|tests"
  "CLI/:tools|bench"
  "fmt/:tools|bench"
  "png.h:tools"
  "zip.h:tools"
  "dnnl.hpp:bench"
  "benchmark/:bench"
  "gtest/:tests"
  "gmock/:tests"
  "rapidcheck:tests")

set(wrong "")
foreach(layer IN LISTS layers)
  string(REGEX MATCH "^([^:]*):(.*)$" _ "${layer}")
  set(folder ${CMAKE_MATCH_1})
  set(allowed ${CMAKE_MATCH_2})
  file(GLOB_RECURSE files RELATIVE ${SOURCE_DIR} ${SOURCE_DIR}/${folder}/*.[ch]pp
    ${SOURCE_DIR}/${folder}/*.h)
  foreach(file IN LISTS files)
    file(STRINGS ${SOURCE_DIR}/${file} lines REGEX "^[ \t]*#[ \t]*include")
    foreach(line IN LISTS lines)
      if(line MATCHES "include[ \t]*\"([^\"]*)\"")
        set(header ${CMAKE_MATCH_1})
        if(NOT header MATCHES "^(${folder})/")
          if(allowed STREQUAL "" OR NOT header MATCHES "^(${allowed})(/|$)")
            list(APPEND wrong "${file}: \"${header}\" is none of its layers (${folder} ${allowed})")
          endif()
        endif()
      elseif(line MATCHES "include[ \t]*<([^>]*)>")
        set(header ${CMAKE_MATCH_1})
        foreach(rule IN LISTS third_party)
          string(REGEX MATCH "^([^:]*):(.*)$" _ "${rule}")
          set(prefix ${CMAKE_MATCH_1})
          set(folders ${CMAKE_MATCH_2})
          string(FIND "${header}" "${prefix}" at)
          if(at EQUAL 0 AND NOT file MATCHES "^(${folders})")
            list(APPEND wrong "${file}: <${header}> belongs to ${folders} only")
          endif()
        endforeach()
      endif()
    endforeach()
  endforeach()
endforeach()

if(wrong)
  list(JOIN wrong "\n" text)
  message(FATAL_ERROR "${text}")
endif()
