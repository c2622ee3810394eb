package lm

import "math"

// quad is four consecutive values of a vector. Activations are kept as slices
// of quads so that the kernels need no bounds checks.
type quad [4]float32

// tile is a 4×4 block of a matrix, column by column: tile[4*k+r] multiplies
// element k of the input quad and adds to element r of the output quad.
type tile [16]float32

// dot adds the product of four rows of a matrix and x to acc. w[k] is the
// tile of these rows that meets x[k]; len(w) ≥ len(x).
//
// Every inner product of the model is computed here and nowhere else, in one
// order: each output element takes one sum per tile, ((0+1)+(2+3)), from the
// first tile to the last. The conversions forbid the compiler to fuse a
// product into a sum, which it does on some processors only.
//
// The shape is measured (design.md): four sums and two levels of additions keep
// both pipes busy and fit the 15 registers that Go uses on amd64.
//
// The race detector is off: the kernels own no memory that is shared, their
// callers' accesses are still checked, and under it they would be ten times
// slower.
//
//go:norace
func dot(acc *quad, w []tile, x []quad) {
	w = w[:len(x)]
	a0, a1, a2, a3 := acc[0], acc[1], acc[2], acc[3]
	for k := range x {
		t, v := &w[k], &x[k]
		v0, v1, v2, v3 := v[0], v[1], v[2], v[3]
		a0 += (float32(t[0]*v0) + float32(t[4]*v1)) + (float32(t[8]*v2) + float32(t[12]*v3))
		a1 += (float32(t[1]*v0) + float32(t[5]*v1)) + (float32(t[9]*v2) + float32(t[13]*v3))
		a2 += (float32(t[2]*v0) + float32(t[6]*v1)) + (float32(t[10]*v2) + float32(t[14]*v3))
		a3 += (float32(t[3]*v0) + float32(t[7]*v1)) + (float32(t[11]*v2) + float32(t[15]*v3))
	}
	acc[0], acc[1], acc[2], acc[3] = a0, a1, a2, a3
}

// normalize writes x · gain / sqrt(mean(x²) + eps) to dst (RMSNorm).
//
//go:norace
func normalize(dst, x, gain []quad, eps float64) {
	dst, gain = dst[:len(x)], gain[:len(x)]
	var s0, s1, s2, s3 float32
	for i := range x {
		v := &x[i]
		s0 += float32(v[0] * v[0])
		s1 += float32(v[1] * v[1])
		s2 += float32(v[2] * v[2])
		s3 += float32(v[3] * v[3])
	}
	mean := float64((s0+s1)+(s2+s3)) / float64(4*len(x))
	scale := float32(1 / math.Sqrt(mean+eps))
	for i := range x {
		for j, v := range x[i] {
			dst[i][j] = float32(v*scale) * gain[i][j]
		}
	}
}

// add adds y to x.
//
//go:norace
func add(x, y []quad) {
	y = y[:len(x)]
	for i := range x {
		for j := range x[i] {
			x[i][j] += y[i][j]
		}
	}
}

// gate replaces x by silu(x)·up, where silu(x) = x/(1+e^-x) (SwiGLU).
//
//go:norace
func gate(x, up []quad) {
	up = up[:len(x)]
	for i := range x {
		for j, v := range x[i] {
			x[i][j] = v / (1 + exp(-v)) * up[i][j]
		}
	}
}

// rotate applies the rotary embedding to one head: it turns each pair of
// elements i and i+len/2 by the angle whose cosine and sine are given
// (Hugging Face's "rotate half"; 2104.09864).
//
//go:norace
func rotate(head, cos, sin []quad) {
	half := len(head) / 2
	low, high := head[:half], head[half:2*half]
	cos, sin = cos[:half], sin[:half]
	for i := range low {
		for j, c := range cos[i] {
			s, a, b := sin[i][j], low[i][j], high[i][j]
			low[i][j] = float32(a*c) - float32(b*s)
			high[i][j] = float32(b*c) + float32(a*s)
		}
	}
}

// softmax replaces the first n scores by e^(scale·(score−max)), those after
// them by 0, and returns the inverse of their sum, by which the caller has to
// multiply. scores has (n+3)/4 quads, n ≥ 1, scale > 0.
//
//go:norace
func softmax(scores []quad, n int, scale float32) float32 {
	last := &scores[len(scores)-1]
	for j := range last {
		if 4*(len(scores)-1)+j >= n {
			last[j] = float32(math.Inf(-1))
		}
	}
	top := scores[0]
	for i := range scores {
		for j, v := range scores[i] {
			top[j] = max(top[j], v)
		}
	}
	best := max(max(top[0], top[1]), max(top[2], top[3]))
	var sum quad
	for i := range scores {
		for j, v := range scores[i] {
			e := exp(float32(v-best) * scale)
			scores[i][j] = e
			sum[j] += e
		}
	}
	return 1 / ((sum[0] + sum[1]) + (sum[2] + sum[3]))
}

// exp is e^x within 2 ulp, 0 below -86.6 (where float32 ends, nearly) and +Inf
// above 88.72. math.Exp is no substitute: it differs between processors.
//
// Method: Cephes expf. e^x = 2^n · e^r with n = round(x/ln 2); ln 2 is taken off
// in two parts, and a polynomial gives e^r on |r| ≤ ln 2/2.
//
//go:norace
func exp(x float32) float32 {
	const (
		round   = 3 << 22 // a float32 plus this has no fraction left
		ln2High = 0.693359375
		ln2Low  = -2.12194440e-4
	)
	if x < -86.6 {
		return 0
	}
	if x > 88.72 {
		return float32(math.Inf(1))
	}
	n := float32(float32(x*math.Log2E)+round) - round
	r := x - float32(n*ln2High)
	r -= float32(n * ln2Low)
	p := float32(1.9875691500e-4*r) + 1.3981999507e-3
	p = float32(p*r) + 8.3334519073e-3
	p = float32(p*r) + 4.1665795894e-2
	p = float32(p*r) + 1.6666665459e-1
	p = float32(p*r) + 5.0000001201e-1
	y := float32(float32(p*r)*r) + r + 1
	// 2^(n-1), and then twice that, since 2^128 is not a float32.
	return float32(y*math.Float32frombits(uint32(int32(n)+126)<<23)) * 2
}
