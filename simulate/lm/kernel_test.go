package lm

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestExp bounds the error in units of the last place of float32.
func TestExp(t *testing.T) {
	worst := 0.
	for x := float32(-86.6); x < 88.7; x += .0007 {
		want := math.Exp(float64(x))
		ulp := float64(math.Nextafter32(float32(want), math.MaxFloat32)) - float64(float32(want))
		worst = max(worst, math.Abs(float64(exp(x))-want)/ulp)
	}
	if t.Logf("within %.2f ulp", worst); worst > 2 {
		t.Errorf("exp is off by %.2f ulp", worst)
	}
	infinity := float32(math.Inf(1))
	for _, c := range []struct{ x, want float32 }{
		{0, 1}, {-86.7, 0}, {-1e30, 0}, {-infinity, 0}, {88.8, infinity}, {1e30, infinity}, {infinity, infinity},
	} {
		if got := exp(c.x); got != c.want {
			t.Errorf("exp(%v) = %v, want %v", c.x, got, c.want)
		}
	}
	if got := exp(float32(math.NaN())); got == got {
		t.Errorf("exp(NaN) = %v", got)
	}
}

// TestMatrix multiplies a matrix whose rows are no multiple of 4.
func TestMatrix(t *testing.T) {
	random := rand.New(rand.NewPCG(0, 0))
	const in, out = 12, 10
	rows := make([]float32, in*out)
	x := make([]float32, in)
	for i := range rows {
		rows[i] = float32(random.NormFloat64())
	}
	for i := range x {
		x[i] = float32(random.NormFloat64())
	}
	w := newMatrix(rows, in)
	for r := range 4 * w.out {
		want := 0.
		for k := range in {
			if r < out {
				want += float64(rows[r*in+k]) * float64(x[k])
			}
		}
		sum := quad{1, 1, 1, 1}
		dot(&sum, w.panel(r/4), quads(x))
		if got := float64(sum[r%4]) - 1; math.Abs(got-want) > 1e-5 {
			t.Errorf("row %d: got %v, want %v", r, got, want)
		}
	}
}

func TestSoftmax(t *testing.T) {
	for _, c := range []struct {
		scores []quad
		n      int
		want   []quad
	}{
		{[]quad{{3, 9, 9, 9}}, 1, []quad{{1, 0, 0, 0}}},
		{[]quad{{-1e30, -1e30, 9, 9}}, 2, []quad{{.5, .5, 0, 0}}},
		{[]quad{{0, 2, 4, 6}, {8, 9, 9, 9}}, 5, []quad{{.0116562, .0316850, .0861285, .2341217}, {.6364086, 0, 0, 0}}},
		{[]quad{{200, -200, 0, 0}}, 4, []quad{{1, 0, 0, 0}}},
	} {
		got := slices.Clone(c.scores)
		inverse := softmax(got, c.n, .5)
		for i := range got {
			for j := range got[i] {
				if math.Abs(float64(got[i][j]*inverse-c.want[i][j])) > 1e-6 {
					t.Errorf("%v: got %v · %v, want %v", c.scores, got, inverse, c.want)
				}
			}
		}
	}
}
