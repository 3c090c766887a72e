package port

import "testing"

// Whatever arrives is understood or refused with an error, and what is
// understood keeps what the callers rely on.
func FuzzDatagrams(f *testing.F) {
	for _, s := range []string{
		`{"op":"attach"}`, `{"op":"settle"}`, `{"op":""}`, `{"ok":true}`, `{"error":"x"}`,
		`{"ports":[{"id":1,"name":"swp1"}],"more":true}`, `{"ports":[{"id":65536,"name":"x"}]}`, `null`, ``, `{}{}`,
	} {
		f.Add([]byte(s), 2)
	}
	f.Fuzz(func(t *testing.T, data []byte, descriptors int) {
		if r, err := decodeRequest(data); err == nil && r.Op != opAttach && r.Op != opSettle {
			t.Errorf("op %q understood", r.Op)
		}
		r, err := decodeReply(data, descriptors)
		if err != nil {
			return
		}
		if descriptors != 2*len(r.Ports) {
			t.Errorf("%d descriptors for %d ports", descriptors, len(r.Ports))
		}
		for _, p := range r.Ports {
			if p.ID == 0 || p.Name == "" {
				t.Errorf("port %+v understood", p)
			}
		}
	})
}
