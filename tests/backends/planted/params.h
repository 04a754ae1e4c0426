// The parameters of the planted kernels, for host and kernels, as in src/backends/gpu/kernels/interface.h.
#pragma once

struct PlantedParams {
  uint n;  // elements of y
  uint defect;
};
