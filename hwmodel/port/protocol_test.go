package port_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"antiphon/hwmodel"
	"antiphon/hwmodel/port"
)

func TestSettle(t *testing.T) {
	path := serve(t, &taps{})
	check(t, port.Settle(t.Context(), path))
	if err := port.Settle(t.Context(), path); err == nil || !strings.Contains(err.Error(), "carrier of w1 does not move") {
		t.Errorf("error %v", err)
	}
}

// many lends one port as if it were 103.
type many struct{ *taps }

func (m many) Attach() ([]port.Lent, error) {
	one, err := m.taps.Attach()
	var all []port.Lent
	for i := 1; i <= 103 && err == nil; i++ {
		all = append(all, port.Lent{ID: hwmodel.PortID(i), Name: fmt.Sprintf("swp%d", i), Wire: one[0].Wire, Host: one[0].Host})
	}
	return all, err
}

func TestManyPortsComeInChunks(t *testing.T) {
	inNetns(t)
	path := serve(t, many{newTAPs(t, 1)})
	a, err := port.Attach(t.Context(), path)
	check(t, err)
	defer a.Close()
	if len(a.Ports) != 103 || a.Ports[102].Name != "swp103" || a.Ports[102].ID != 103 {
		t.Errorf("%d ports, the last is %v", len(a.Ports), a.Ports[len(a.Ports)-1])
	}
}

func TestSecondDeviceIsRefused(t *testing.T) {
	inNetns(t)
	path := serve(t, newTAPs(t, 1))
	a, err := port.Attach(t.Context(), path)
	check(t, err)
	defer a.Close()
	if _, err := port.Attach(t.Context(), path); err == nil || !strings.Contains(err.Error(), "a device is attached already") {
		t.Errorf("error %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sim.sock")
	if _, err := port.Attach(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if err := port.Settle(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
}

// answer serves one client with one datagram, and then holds the connection.
func answer(t *testing.T, datagram string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sim.sock")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	check(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		conn.Write([]byte(datagram))
		conn.Read(make([]byte, 10)) // the request
		conn.Read(make([]byte, 10)) // the end
		conn.Close()
	}()
	return path
}

func TestBadAnswers(t *testing.T) {
	for datagram, says := range map[string]string{
		`{"ports":[{"id":1,"name":"swp1"}]}`: "0 descriptors for 1 ports, expected two each",
		`{"ports":[]}`:                       "it has no ports",
		`{"ports":[],"more":true}`:           "no ports in a chunk that is not the last",
		`{"error":"no"}`:                     "no",
		`{"what":1}`:                         `unknown field "what"`,
		`hello`:                              "invalid character",
		`{} {}`:                              "more than one JSON document",
	} {
		if _, err := port.Attach(t.Context(), answer(t, datagram)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: error %v, expected one with %q", datagram, err, says)
		}
	}
	if err := port.Settle(t.Context(), answer(t, `{}`)); err == nil || !strings.Contains(err.Error(), "neither ok nor error") {
		t.Errorf("error %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	path := serve(t, &taps{})
	for datagram, says := range map[string]string{
		`{"op":"dance"}`: `op \"dance\" is neither`,
		`[]`:             "cannot unmarshal",
	} {
		conn, err := net.Dial("unixpacket", path)
		check(t, err)
		_, err = conn.Write([]byte(datagram))
		check(t, err)
		buffer := make([]byte, 1000)
		n, err := conn.Read(buffer)
		check(t, err)
		conn.Close()
		if !strings.Contains(string(buffer[:n]), says) {
			t.Errorf("%s: answer %s, expected one with %q", datagram, buffer[:n], says)
		}
	}
}

func TestAttachEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sim.sock")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	check(t, err)
	defer listener.Close() // accepts nobody
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := port.Attach(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, expected context.Canceled", err)
	}
}
