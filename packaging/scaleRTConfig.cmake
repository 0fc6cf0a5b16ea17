# find_package(scaleRT) gives scaleRT::scaleRT (shared) and scaleRT::scaleRT_static.
get_filename_component(_scaleRT_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT TARGET scaleRT::scaleRT)
  add_library(scaleRT::scaleRT SHARED IMPORTED)
  set_target_properties(scaleRT::scaleRT PROPERTIES
    IMPORTED_LOCATION "${_scaleRT_prefix}/lib/libscaleRT.so"
    IMPORTED_SONAME "libscaleRT.so.0"
    INTERFACE_INCLUDE_DIRECTORIES "${_scaleRT_prefix}/include")

  add_library(scaleRT::scaleRT_static STATIC IMPORTED)
  set_target_properties(scaleRT::scaleRT_static PROPERTIES
    IMPORTED_LOCATION "${_scaleRT_prefix}/lib/libscaleRT.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_scaleRT_prefix}/include"
    INTERFACE_LINK_LIBRARIES "pthread;dl;m")
endif()

unset(_scaleRT_prefix)
