// Package vocab holds what is known of a model's vocabulary without a
// tokeniser: the token id, incremental text that holds back incomplete UTF-8,
// and the fingerprint by which two endpoints' vocabularies are compared.
//
// The proxy never tokenises. Ids come from an engine, text comes from an
// engine; this package only decides what may be shown of it, and when.
package vocab

import "strconv"

// Token is an id in an engine's vocabulary. Valid ids are ≥ 0; what is above
// the vocabulary's size must not be sent to an engine (it can end a server).
type Token int32

// AppendIDs appends ids to dst in decimal, separated by commas, as they stand
// in a JSON array (without the brackets).
func AppendIDs(dst []byte, ids []Token) []byte {
	for i, id := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, int64(id), 10)
	}
	return dst
}
