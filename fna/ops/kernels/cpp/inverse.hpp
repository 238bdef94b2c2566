// The inverses of one landmark block [m, m], rows `stride` apart, on a right-hand side [m, width], both padded inside: newton.cpp
// and ridge.cpp. `scratch`: as many numbers as the function beside each says.
#pragma once

long newton_scratch(long m, long width);
void newton(const float *block, long stride, const float *rhs, long m, long width, long steps, float *out, float *scratch);

long ridge_scratch(long m, long width);
void ridge(const float *block, long stride, const float *rhs, long m, long width, float share, float *out, float *scratch);
