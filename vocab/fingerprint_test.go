package vocab

import (
	"errors"
	"testing"
)

func TestFingerprint(t *testing.T) {
	bytewise := func(shift Token) func(string) ([]Token, error) {
		return func(s string) ([]Token, error) {
			var ids []Token
			for _, b := range []byte(s) {
				ids = append(ids, Token(b)+shift)
			}
			return ids, nil
		}
	}
	a, err := Fingerprint(bytewise(0))
	if err != nil || len(a) != 26 {
		t.Fatalf("%q, %v", a, err)
	}
	if b, _ := Fingerprint(bytewise(0)); b != a {
		t.Errorf("not stable: %q, %q", a, b)
	}
	if b, _ := Fingerprint(bytewise(1)); b == a {
		t.Error("two vocabularies with one fingerprint")
	}
	last := 0
	if b, _ := Fingerprint(func(s string) ([]Token, error) {
		ids, _ := bytewise(0)(s)
		if last++; last == len(fingerprintTexts) {
			ids[len(ids)-1]++
		}
		return ids, nil
	}); b == a {
		t.Error("a difference in the last token went unseen")
	}
	if _, err := Fingerprint(func(string) ([]Token, error) { return nil, errors.New("down") }); err == nil {
		t.Error("no error")
	}
	if _, err := Fingerprint(func(string) ([]Token, error) { return nil, nil }); err == nil {
		t.Error("no tokens were taken for a fingerprint")
	}
}
