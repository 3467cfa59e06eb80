// What a kernel asks of its driver: printf, assert, malloc and free. `gpuvm.compiler.library.build()` makes services.ptx
// from this file (needs NVRTC). The driver fills `gpuvm_services` when it loads a module that has the symbol;
// `gpuvm.guest.cuda.services` reads the records.

typedef unsigned long long u64;
typedef unsigned int u32;

#define DEVICE extern "C" __device__ __noinline__

// The record area starts 16 bytes behind `printf`; `used` counts the bytes that were asked for, also those that did not fit.
struct Fifo { u64 used, capacity; };
#define TYPES 112
struct Heap { u64 next, end, free[TYPES]; };
extern "C" __device__ struct { Fifo *fifo; Heap *heap; } gpuvm_services = {0, 0};

enum { PRINT = 1, ASSERTION = 2 };
struct Record { u32 size, kind; };

static __device__ __forceinline__ u32 length(const char *s)
{
    u32 n = 0;
    if (s)
        while (s[n] && n < 65536) n++;
    return n;
}

static __device__ __forceinline__ u32 up(u32 n) { return (n + 7) & ~7u; }

// Space for a record, or null if the area is full; its header is written.
DEVICE char *gpuvm_reserve(u32 size, u32 kind)
{
    Fifo *fifo = gpuvm_services.fifo;
    if (!fifo) return 0;
    u64 at = atomicAdd(&fifo->used, (u64)size);
    if (at + size > fifo->capacity) return 0;
    Record *record = (Record *)((char *)(fifo + 1) + at);
    record->size = size;
    record->kind = kind;
    return (char *)(record + 1);
}

// A text as its length and its bytes.
DEVICE char *gpuvm_put(char *to, const char *s, u32 n)
{
    *(u64 *)to = s ? n : ~0ull;
    to += 8;
    for (u32 i = 0; i < n; i++) to[i] = s[i];
    return to + up(n);
}

// One conversion from `f`, which stands behind the %: the bytes that the value takes among the arguments (0 for %%,
// negative for a text); `stars` is how many ints stand before it. `f` moves behind the conversion.
DEVICE int gpuvm_conversion(const char *&f, int &stars)
{
    int size = 4;
    stars = 0;
    for (;; f++) {
        char c = *f;
        if (c == '*') stars++;
        else if (c == 'l' || c == 'j' || c == 'z' || c == 't') size = 8;
        else if (!(c == '-' || c == '+' || c == ' ' || c == '#' || c == '.' || c == 'h' || c == 'L' || (c >= '0' && c <= '9')))
            break;
    }
    char c = *f;
    if (!c) return 0;
    f++;
    if (c == '%') return 0;
    if (c == 's') return -8;
    if (c == 'p' || c == 'n') return 8;
    if (c == 'f' || c == 'F' || c == 'e' || c == 'E' || c == 'g' || c == 'G' || c == 'a' || c == 'A') return 8;
    return size;
}

DEVICE int gpuvm_vprintf(const char *format, const char *arguments)
{
    if (!format) return -1;
    u32 texts = length(format);
    u32 total = sizeof(Record) + 8 + up(texts);
    int values = 0;
    char *to = 0;
    // Once to measure, once to write.
    for (int pass = 0; pass < 2; pass++) {
        if (pass) {
            to = gpuvm_reserve(total, PRINT);
            if (!to) return values;
            to = gpuvm_put(to, format, texts);
        }
        const char *f = format;
        u32 at = 0;
        while (*f) {
            if (*f++ != '%') continue;
            int stars;
            int size = gpuvm_conversion(f, stars);
            for (; stars; stars--, at += 4) {
                if (pass) { *(u64 *)to = (u64)(long long)*(const int *)(arguments + at); to += 8; }
                else total += 8;
            }
            if (!size) continue;
            u32 bytes = size < 0 ? -size : size;
            at = (at + bytes - 1) & ~(bytes - 1);
            u64 value = bytes == 8 ? *(const u64 *)(arguments + at) : *(const u32 *)(arguments + at);
            at += bytes;
            if (!pass) {
                values++;
                total += 8;
                if (size < 0) total += up(length((const char *)value));
            } else if (size < 0) {
                to = gpuvm_put(to, (const char *)value, length((const char *)value));
            } else {
                *(u64 *)to = value;
                to += 8;
            }
        }
    }
    return values;
}

DEVICE void gpuvm_assertfail(const char *message, const char *file, u32 line, const char *function, u64)
{
    u32 a = length(message), b = length(file), c = length(function);
    char *to = gpuvm_reserve(sizeof(Record) + 32 + 24 + up(a) + up(b) + up(c), ASSERTION);
    if (to) {
        u32 *words = (u32 *)to;
        words[0] = line;
        words[1] = blockIdx.x;
        words[2] = blockIdx.y;
        words[3] = blockIdx.z;
        words[4] = threadIdx.x;
        words[5] = threadIdx.y;
        words[6] = threadIdx.z;
        words[7] = 0;
        to = gpuvm_put(gpuvm_put(gpuvm_put(to + 32, message, a), file, b), function, c);
        __threadfence_system();
    }
    asm volatile("trap;");
}

// Blocks of 4, 5, 6, 7 << n units of 16 bytes, the first unit a header; freed ones are kept in a list for each size. A
// list's head is (count of changes << 32 | unit), so that a head taken off and put back is not mistaken for an
// unchanged one.
struct Block { u64 next; u32 type, magic; };
#define MAGIC 0x6d70a110u

DEVICE void *gpuvm_malloc(u64 size)
{
    Heap *heap = gpuvm_services.heap;
    if (!heap || !size || size > heap->end) return 0;
    u32 units = (u32)((size + 31) / 16);
    if (units < 4) units = 4;
    u32 shift = 29 - __clz(units), leading = (units + (1u << shift) - 1) >> shift;
    u32 first = 4 * shift + leading - 4;
    for (u32 type = first; type < TYPES; type++) {
        for (;;) {
            u64 head = *(volatile u64 *)&heap->free[type];
            u32 offset = (u32)head;
            if (!offset) break;
            Block *block = (Block *)((char *)heap + 16ull * offset);
            u64 next = *(volatile u64 *)&block->next;
            if (atomicCAS(&heap->free[type], head, (head >> 32) + 1 << 32 | (u32)next) == head) {
                block->magic = MAGIC;
                return block + 1;
            }
        }
        if (type != first) continue;
        u64 bytes = (u64)(4 + (type & 3)) << (type >> 2) + 4;
        for (;;) {
            u64 at = *(volatile u64 *)&heap->next;
            if (at + bytes > heap->end) break;
            if (atomicCAS(&heap->next, at, at + bytes) == at) {
                Block *block = (Block *)((char *)heap + at);
                block->type = type;
                block->magic = MAGIC;
                return block + 1;
            }
        }
    }
    return 0;
}

DEVICE void gpuvm_free(void *pointer)
{
    Heap *heap = gpuvm_services.heap;
    if (!pointer) return;
    Block *block = (Block *)pointer - 1;
    u64 at = (u64)((char *)block - (char *)heap);
    if (!heap || at < sizeof(Heap) || at >= heap->end || block->magic != MAGIC || block->type >= TYPES) {
        asm volatile("trap;");
        return;
    }
    block->magic = 0;
    for (;;) {
        u64 head = *(volatile u64 *)&heap->free[block->type];
        *(volatile u64 *)&block->next = (u32)head;
        __threadfence();
        if (atomicCAS(&heap->free[block->type], head, (head >> 32) + 1 << 32 | (u32)(at / 16)) == head) return;
    }
}
