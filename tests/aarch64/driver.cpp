// Runs cases of the C ABI without PyTorch: driver CASES RESULTS. tests/test_aarch64.py writes the
// cases and judges the results. Every number of a case is 8 bytes; tensors are contiguous.
//   op, dtype, bytes of an element, backward, threshold, seed, scale, count of sizes, sizes, inputs
#include <stdio.h>
#include <stdlib.h>

#include <initializer_list>
#include <vector>

#include "abi.h"

namespace {

FILE *cases, *results;

void expect(bool ok, const char* what) {
    if (ok) return;
    fprintf(stderr, "driver: %s\n", what);
    exit(1);
}

template <class T>
bool read(T& x) {
    return fread(&x, sizeof(x), 1, cases) == 1;
}

struct Case {
    int64_t op, dtype, element, backward, threshold, seed;
    double scale;
    std::vector<int64_t> sizes;
    std::vector<std::vector<char>> tensors;  // inputs and results, kept until the next case
    std::vector<size_t> outputs;

    bool next() {
        int64_t count;
        if (!read(op)) return false;
        expect(read(dtype) && read(element) && read(backward) && read(threshold) && read(seed) &&
                   read(scale) && read(count),
               "a case ends early");
        sizes.resize(count);
        for (int64_t& n : sizes) expect(read(n), "a case ends early");
        tensors.clear();
        tensors.reserve(64);
        outputs.clear();
        return true;
    }

    char* make(std::initializer_list<int64_t> shape) {
        size_t bytes = (size_t)element;
        for (const int64_t n : shape) bytes *= (size_t)n;
        tensors.emplace_back(bytes);
        return tensors.back().data();
    }
    char* input(std::initializer_list<int64_t> shape) {
        char* data = make(shape);
        const size_t bytes = tensors.back().size();
        expect(fread(data, 1, bytes, cases) == bytes, "a tensor ends early");
        return data;
    }
    char* output(std::initializer_list<int64_t> shape) {
        char* data = make(shape);
        outputs.push_back(tensors.size() - 1);
        return data;
    }
    jca_matrix in(int64_t a, int64_t b, int64_t c) { return {input({a, b, c}), {b * c, c, 1}}; }
    jca_matrix out(int64_t a, int64_t b, int64_t c) { return {output({a, b, c}), {b * c, c, 1}}; }
    jca_weight in(int64_t a, int64_t b) { return {input({a, b}), {b, 1}}; }
    jca_weight out(int64_t a, int64_t b) { return {output({a, b}), {b, 1}}; }

    void finish(int status) {
        expect(status == JCA_OK, jca_status_string(status));
        for (const size_t i : outputs)
            expect(fwrite(tensors[i].data(), 1, tensors[i].size(), results) == tensors[i].size(),
                   "the results cannot be written");
    }

    template <class Block>
    Block block() const {
        Block a{};
        a.struct_size = sizeof(a);
        a.dtype = dtype;
        return a;
    }
};

// sizes: batch, m, l, n, d, samples of v
void tanh_attention(Case& c) {
    auto a = c.block<jca_tanh_attention>();
    a.batch = c.sizes[0];
    a.m = c.sizes[1];
    a.l = c.sizes[2];
    a.n = c.sizes[3];
    a.d = c.sizes[4];
    a.shared_v = c.sizes[5] != a.batch;
    a.threshold = c.threshold;
    a.seed = c.seed;
    a.scale = c.scale;
    a.q = c.in(a.batch, a.m, a.n);
    a.k = c.in(a.batch, a.l, a.n);
    a.v = c.in(c.sizes[5], a.l, a.d);
    if (!c.backward) {
        a.out = c.out(a.batch, a.m, a.d);
        return c.finish(jca_tanh_attention_forward(&a));
    }
    a.dout = c.in(a.batch, a.m, a.d);
    a.dq = c.out(a.batch, a.m, a.n);
    a.dk = c.out(a.batch, a.l, a.n);
    a.dv = c.out(c.sizes[5], a.l, a.d);
    c.finish(jca_tanh_attention_backward(&a));
}

// sizes: batch, n, width, key_width
void released_attention(Case& c) {
    auto a = c.block<jca_released_attention>();
    a.batch = c.sizes[0];
    a.n = c.sizes[1];
    a.width = c.sizes[2];
    a.key_width = c.sizes[3];
    a.threshold = c.threshold;
    a.seed = c.seed;
    a.scale = c.scale;
    a.query = c.in(a.batch, a.n, a.width);
    a.key = c.in(a.batch, a.n, a.key_width);
    a.value = c.in(a.batch, a.n, a.key_width);
    if (!c.backward) {
        a.out = c.out(a.batch, a.n, a.width);
        return c.finish(jca_released_attention_forward(&a));
    }
    a.out = c.in(a.batch, a.n, a.width);
    a.dout = c.in(a.batch, a.n, a.width);
    a.dquery = c.out(a.batch, a.n, a.width);
    a.dkey = c.out(a.batch, a.n, a.key_width);
    a.dvalue = c.out(a.batch, a.n, a.key_width);
    c.finish(jca_released_attention_backward(&a));
}

// sizes: batch, m, l, n
void joint_affinity(Case& c) {
    auto a = c.block<jca_joint_affinity>();
    a.batch = c.sizes[0];
    a.m = c.sizes[1];
    a.l = c.sizes[2];
    a.n = c.sizes[3];
    a.scale = c.scale;
    a.q = c.in(a.batch, a.m, a.n);
    a.k = c.in(a.batch, a.l, a.n);
    if (!c.backward) {
        a.c = c.out(a.batch, a.m, a.l);
        return c.finish(jca_joint_affinity_forward(&a));
    }
    a.c = c.in(a.batch, a.m, a.l);
    a.dc = c.in(a.batch, a.m, a.l);
    a.dq = c.out(a.batch, a.m, a.n);
    a.dk = c.out(a.batch, a.l, a.n);
    c.finish(jca_joint_affinity_backward(&a));
}

// One modality that attends to itself. sizes: batch, n, width, attention
void joint_coattention(Case& c) {
    auto a = c.block<jca_joint_coattention>();
    jca_modality& m = a.modality[0];
    a.batch = c.sizes[0];
    a.n = c.sizes[1];
    a.count = 1;
    a.threshold = c.threshold;
    a.seed = c.seed;
    m.width = m.joint_width = c.sizes[2];
    m.attention = c.sizes[3];
    m.scale = c.scale;
    m.x = c.in(a.batch, a.n, m.width);
    m.w_j = c.in(a.n, a.n);
    m.w_x = c.in(m.attention, a.n);
    m.w_c = c.in(m.attention, m.width);
    m.w_h = c.in(m.attention, a.n);
    if (!c.backward) {
        m.out = c.out(a.batch, a.n, m.width);
        m.h = c.out(a.batch, m.attention, m.width);
        return c.finish(jca_joint_coattention_forward(&a));
    }
    m.h = c.in(a.batch, m.attention, m.width);
    m.out = c.in(a.batch, a.n, m.width);
    m.dx = c.out(a.batch, a.n, m.width);
    m.dw_j = c.out(a.n, a.n);
    m.dw_x = c.out(m.attention, a.n);
    m.dw_c = c.out(m.attention, m.width);
    m.dw_h = c.out(m.attention, a.n);
    c.finish(jca_joint_coattention_backward(&a));
}

// sizes: samples, regions, width
void visual_reduction(Case& c) {
    auto a = c.block<jca_visual_reduction>();
    a.samples = c.sizes[0];
    a.regions = c.sizes[1];
    a.width = c.sizes[2];
    a.scale = c.scale;
    a.query = c.in(a.samples, a.width);
    a.keys = c.in(a.samples, a.regions, a.width);
    if (!c.backward) {
        a.out = c.out(a.samples, a.width);
        a.weights = c.out(a.samples, a.regions);
        return c.finish(jca_visual_reduction_forward(&a));
    }
    a.weights = c.in(a.samples, a.regions);
    a.dout = c.in(a.samples, a.width);
    a.dweights = c.in(a.samples, a.regions);
    a.dquery = c.out(a.samples, a.width);
    a.dkeys = c.out(a.samples, a.regions, a.width);
    c.finish(jca_visual_reduction_backward(&a));
}

#define JCA_FUNCTION(op) op,
void (*const kOps[])(Case&) = {JCA_OPS(JCA_FUNCTION)};
constexpr int64_t kCount = sizeof(kOps) / sizeof(kOps[0]);

}  // namespace

int main(int count, char** arguments) {
    expect(count == 3, "usage: driver CASES RESULTS");
    cases = fopen(arguments[1], "rb");
    results = fopen(arguments[2], "wb");
    expect(cases && results, "a file cannot be opened");
    expect(jca_isa_select("") == JCA_OK, "no instruction set");
    puts(jca_isa_name());
    for (Case c; c.next();) {
        expect(c.op >= 0 && c.op < kCount, "no such op");
        kOps[c.op](c);
    }
    expect(fclose(results) == 0, "the results cannot be written");
    return 0;
}
