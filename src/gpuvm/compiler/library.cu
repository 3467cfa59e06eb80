// Arithmetic that takes more than a few instructions on sm_20: 64-bit division, double-precision division and roots.
// `gpuvm.compiler.library.build()` makes library.ptx from this file (needs NVRTC).

typedef unsigned long long u64;
typedef unsigned int u32;

enum Rounding { RN, RZ, RM, RP };

#define DEVICE extern "C" __device__ __noinline__

struct Division { u64 quotient, remainder; };

// Newton from below on a fixed-point reciprocal (fraction of 2**64): 22, 44, 88 good bits, then at most two steps short.
DEVICE Division gpuvm_udiv64(u64 a, u64 b)
{
    float f;
    asm("cvt.rp.f32.u64 %0, %1;" : "=f"(f) : "l"(b));
    asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(f));
    u64 x;
    asm("cvt.rzi.u64.f32 %0, %1;" : "=l"(x) : "f"(__int_as_float(__float_as_int(f) + 0x1ffffffe)));
    x += __umul64hi(x, (u64)0 - b * x);
    x += __umul64hi(x, (u64)0 - b * x);
    Division d;
    d.quotient = __umul64hi(a, x);
    d.remainder = a - d.quotient * b;
    if (d.remainder >= b) { d.remainder -= b; d.quotient++; }
    if (d.remainder >= b) { d.remainder -= b; d.quotient++; }
    return d;
}

// A rounded double from sign, 56 significant bits (the highest set) and the exponent of the highest; sticky in bit 0.
__device__ __forceinline__ double pack(u64 sign, u64 q, int exponent, int mode)
{
    int biased = exponent + 1023;
    if (biased < 1) {
        int shift = 1 - biased;
        if (shift > 60) shift = 60;
        q = (q >> shift) | ((q & ((1ull << shift) - 1)) != 0);
        biased = 1;
    }
    u64 mantissa = q >> 3;
    u32 rest = (u32)q & 7;
    bool up;
    bool away = mode == (sign ? RM : RP);
    if (mode == RN) up = rest > 4 || (rest == 4 && (mantissa & 1));
    else up = away && rest != 0;
    if (biased >= 0x7ff) {
        mantissa = mode == RN || away ? 0x7ff0000000000000ull : 0x7fefffffffffffffull;
        return __longlong_as_double(mantissa | sign);
    }
    u64 bits = mantissa + up + ((u64)(biased - 1) << 52);
    // rounding up past the largest number gives infinity's bits by itself
    return __longlong_as_double(bits | sign);
}

// A finite, nonzero double as 53-bit integer and exponent of its highest bit.
__device__ __forceinline__ u64 unpack(u64 bits, int &exponent)
{
    u64 m = bits & 0xfffffffffffffull;
    int e = (int)(bits >> 52) & 0x7ff;
    if (e == 0) {
        int shift = __clzll(m) - 11;
        m <<= shift;
        exponent = -1022 - shift;
        return m;
    }
    exponent = e - 1023;
    return m | 1ull << 52;
}

DEVICE double gpuvm_div_slow_f64(double x, double y, int mode)
{
    u64 a = __double_as_longlong(x), b = __double_as_longlong(y);
    u64 sign = (a ^ b) & 1ull << 63;
    a &= ~(1ull << 63);
    b &= ~(1ull << 63);
    const u64 infinity = 0x7ff0000000000000ull;
    if (a > infinity || b > infinity) return x + y;
    if (a == b && (a == 0 || a == infinity)) return __longlong_as_double(0xfff8000000000000ull);
    if (a == infinity || b == 0) return __longlong_as_double(sign | infinity);
    if (a == 0 || b == infinity) return __longlong_as_double(sign);
    int ea, eb;
    u64 rest = unpack(a, ea), divisor = unpack(b, eb);
    int exponent = ea - eb;
    if (rest < divisor) { rest <<= 1; exponent--; }
    u64 q = 1;
    rest -= divisor;
    #pragma unroll 1
    for (int k = 0; k < 55; k++) {
        rest <<= 1;
        q <<= 1;
        if (rest >= divisor) { rest -= divisor; q |= 1; }
    }
    return pack(sign, q | (rest != 0), exponent, mode);
}

template <int MODE> __device__ __forceinline__ double fma_mode(double a, double b, double c)
{
    return MODE == RN ? __fma_rn(a, b, c) : MODE == RZ ? __fma_rz(a, b, c) : MODE == RM ? __fma_rd(a, b, c) : __fma_ru(a, b, c);
}

// Fast where no intermediate result can overflow, underflow or lose bits; the rest goes the slow way.
template <int MODE> __device__ __forceinline__ double divide(double x, double y)
{
    double r;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(r) : "d"(y));
    r = __fma_rn(r, __fma_rn(-y, r, 1.0), r);
    r = __fma_rn(r, __fma_rn(-y, r, 1.0), r);
    double q = __dmul_rn(x, r);
    q = __fma_rn(__fma_rn(-y, q, x), r, q);
    if (MODE != RN) q = fma_mode<MODE>(__fma_rn(-y, q, x), r, q);
    u32 ex = (u32)__double2hiint(x) >> 20 & 0x7ff, ey = (u32)__double2hiint(y) >> 20 & 0x7ff;
    u32 eq = (u32)__double2hiint(q) >> 20 & 0x7ff;
    if (ex - 110 < 0x7ff - 110 && ey - 1 < 2040 && eq - 2 < 0x7fd - 2) return q;
    return gpuvm_div_slow_f64(x, y, MODE);
}

DEVICE double gpuvm_div_rn_f64(double x, double y) { return divide<RN>(x, y); }
DEVICE double gpuvm_div_rz_f64(double x, double y) { return divide<RZ>(x, y); }
DEVICE double gpuvm_div_rm_f64(double x, double y) { return divide<RM>(x, y); }
DEVICE double gpuvm_div_rp_f64(double x, double y) { return divide<RP>(x, y); }

template <int MODE> __device__ __forceinline__ double root(double x)
{
    double scale = 1.0, back = 1.0;
    u32 top = (u32)__double2hiint(x);
    if ((top & 0x7fffffffu) < 0x06000000u) { scale = 0x1p+108; back = 0x1p-54; }
    double s = __dmul_rn(x, scale);
    double y;
    asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(s));
    double g = __dmul_rn(s, y), h = __dmul_rn(y, 0.5);
    double e = __fma_rn(-h, g, 0.5);
    g = __fma_rn(g, e, g);
    h = __fma_rn(h, e, h);
    e = __fma_rn(-h, g, 0.5);
    g = __fma_rn(g, e, g);
    h = __fma_rn(h, e, h);
    g = __fma_rn(__fma_rn(-g, g, s), h, g);
    g = fma_mode<MODE>(__fma_rn(-g, g, s), h, g);
    g = __dmul_rn(g, back);
    // zeros and +infinity are their own roots
    if (x == 0.0 || top == 0x7ff00000u && __double2loint(x) == 0) g = x;
    return g;
}

DEVICE double gpuvm_sqrt_rn_f64(double x) { return root<RN>(x); }
DEVICE double gpuvm_sqrt_rz_f64(double x) { return root<RZ>(x); }
DEVICE double gpuvm_sqrt_rm_f64(double x) { return root<RM>(x); }
DEVICE double gpuvm_sqrt_rp_f64(double x) { return root<RP>(x); }

DEVICE double gpuvm_rsqrt_f64(double x)
{
    double scale = 1.0, back = 1.0;
    u32 top = (u32)__double2hiint(x);
    if ((top & 0x7fffffffu) < 0x06000000u) { scale = 0x1p+108; back = 0x1p+54; }
    double s = __dmul_rn(x, scale);
    double y, first;
    asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(s));
    first = y;
    for (int k = 0; k < 2; k++) {
        double e = __fma_rn(-__dmul_rn(s, y), y, 1.0);
        y = __fma_rn(__dmul_rn(y, 0.5), e, y);
    }
    y = __dmul_rn(y, back);
    // infinity, zeros: what the estimate says
    if (x == 0.0 || (top & 0x7fffffffu) >= 0x7ff00000u) y = first;
    return y;
}
