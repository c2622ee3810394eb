package wire

import "strconv"

// Model is an entry of the list of models.
type Model struct {
	ID          string
	Created     int64
	MaxModelLen int // 0 unknown
}

// AppendModels appends the answer to GET /v1/models.
func AppendModels(dst []byte, models []Model) []byte {
	dst = append(dst, `{"object":"list","data":[`...)
	for i, m := range models {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = m.Append(dst)
	}
	return append(dst, `]}`...)
}

// Append appends the answer to GET /v1/models/{id}.
func (m Model) Append(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = AppendString(dst, m.ID)
	dst = append(dst, `,"object":"model","created":`...)
	dst = strconv.AppendInt(dst, m.Created, 10)
	dst = append(dst, `,"owned_by":"paceline"`...)
	if m.MaxModelLen > 0 {
		dst = append(dst, `,"max_model_len":`...)
		dst = appendInt(dst, m.MaxModelLen)
	}
	return append(dst, '}')
}
