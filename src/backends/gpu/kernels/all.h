// Every kernel: one translation unit for each target.
#pragma once

#include "backends/gpu/kernels/dialect.h"
#include "backends/gpu/kernels/interface.h"
#include "backends/gpu/kernels/list.h"
// the kernels
#include "backends/gpu/kernels/attention.h"
#include "backends/gpu/kernels/experts.h"
#include "backends/gpu/kernels/linear.h"
#include "backends/gpu/kernels/rope.h"
#include "backends/gpu/kernels/rows.h"
