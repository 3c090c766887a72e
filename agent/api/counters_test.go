package api

import (
	"encoding/json"
	"testing"

	"antiphon/hwmodel"
)

// TestCountersContract pins the document that others read to judge who forwarded.
func TestCountersContract(t *testing.T) {
	one := hwmodel.PortCounters{
		Port: 1, RX: hwmodel.PacketsBytes{Packets: 10, Bytes: 1000}, Forwarded: hwmodel.PacketsBytes{Packets: 6, Bytes: 600},
		Trapped: hwmodel.PacketsBytes{Packets: 3, Bytes: 300},
	}
	one.Dropped[hwmodel.ReasonBlackhole] = hwmodel.PacketsBytes{Packets: 1, Bytes: 100}
	one.TrappedBy[hwmodel.ReasonLocal] = hwmodel.PacketsBytes{Packets: 3, Bytes: 300}
	two := hwmodel.PortCounters{Port: 2, TX: hwmodel.PacketsBytes{Packets: 8, Bytes: 800}, Injected: hwmodel.PacketsBytes{Packets: 2, Bytes: 200}}
	got, err := json.Marshal(countersOf([]hwmodel.PortInfo{{ID: 2, Name: "swp2"}, {ID: 1, Name: "swp1"}}, []hwmodel.PortCounters{one, two}))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"ports":[` +
		`{"name":"swp1","rx":{"packets":10,"bytes":1000},"tx":{"packets":0,"bytes":0},"forwarded":{"packets":6,"bytes":600},"trapped":{"packets":3,"bytes":300},"injected":{"packets":0,"bytes":0},"copied":{"packets":0,"bytes":0},"dropped":[{"reason":"blackhole","packets":1,"bytes":100}],"trapped_by":[{"reason":"local","packets":3,"bytes":300}]},` +
		`{"name":"swp2","rx":{"packets":0,"bytes":0},"tx":{"packets":8,"bytes":800},"forwarded":{"packets":0,"bytes":0},"trapped":{"packets":0,"bytes":0},"injected":{"packets":2,"bytes":200},"copied":{"packets":0,"bytes":0},"dropped":[]}],` +
		`"total":{"rx":{"packets":10,"bytes":1000},"tx":{"packets":8,"bytes":800},"forwarded":{"packets":6,"bytes":600},"trapped":{"packets":3,"bytes":300},"injected":{"packets":2,"bytes":200},"copied":{"packets":0,"bytes":0},"dropped":[{"reason":"blackhole","packets":1,"bytes":100}],"trapped_by":[{"reason":"local","packets":3,"bytes":300}]}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
