package remote

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"antiphon/hwmodel"
)

func marshal(tb testing.TB, p *Batch) []byte {
	tb.Helper()
	data, err := proto.Marshal(p)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func unmarshal(data []byte) (*hwmodel.Batch, bool) {
	var p Batch
	if proto.Unmarshal(data, &p) != nil {
		return nil, false
	}
	var c codec
	b := batch(&c, &p)
	return b, c.err == nil
}
