// What host and planted kernels share, as src/backends/gpu/kernels/params.h.
#pragma once

struct PlantedParams {
  uint n;  // elements of y
  uint defect;
};
