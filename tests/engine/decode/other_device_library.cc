// A library of the device's code as another Omni would have it: OMNI_VERSION_BEYOND and OMNI_SHAPE_BEYOND say
// by how much.
#include "kernels/device/table.h"

extern "C" const omni::kernels::device::Table* omni_device_table() {
  static omni::kernels::device::Table table;
  table.version = omni::kernels::device::kTableVersion + OMNI_VERSION_BEYOND;
  table.shape = omni::kernels::device::kTableShape + OMNI_SHAPE_BEYOND;
  return &table;
}
