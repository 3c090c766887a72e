package port_test

import (
	"testing"

	"antiphon/hwmodel"
	"antiphon/hwmodel/port"
)

// A frame through two TAP queues and the kernel between them costs no memory.
func TestNothingIsAllocatedPerFrame(t *testing.T) {
	inNetns(t)
	a, err := port.Attach(t.Context(), serve(t, newTAPs(t, 1)))
	check(t, err)
	defer a.Close()
	wire, w1 := a.Ports[0].Wire, newHost(t, "w1")
	frame := testFrame(doTrap, 1, 60)
	frames := make([][]byte, hwmodel.VectorSize)
	got := 0
	allocations := testing.AllocsPerRun(100, func() {
		w1.send(frame)
		n, err := wire.Receive(frames)
		check(t, err)
		for _, f := range frames[:n] {
			check(t, wire.Send(f))
		}
		got += n
	})
	if allocations >= 1 || got < 100 {
		t.Errorf("%g allocations per frame, %d frames", allocations, got)
	}
}
