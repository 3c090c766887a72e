package pipebench

import (
	"errors"
	"testing"
	"time"
)

// TestSameWork runs both sides on a small table: each forwards every packet.
func TestSameWork(t *testing.T) {
	f, err := NewForward(20000, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Run(3); err != nil {
		t.Error(err)
	}
	six, err := NewForward6(20000, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := six.Run(3); err != nil {
		t.Error(err)
	}
	ref, err := f.Reference()
	if errors.Is(err, ErrNoCompiler) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if n, _, err := ref.Run(3); n != 3000 || err != nil {
		t.Errorf("%d packets, %v", n, err)
	}
	if err := ref.Close(); err != nil {
		t.Error(err)
	}
	program, err := NewProgram(20000)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := program.Run(); err != nil {
		t.Error(err)
	}
	if _, _, err := program.Plain(); err != nil {
		t.Error(err)
	}
	p, err := NewParse(1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Run(2); err != nil {
		t.Error(err)
	}
	if _, _, err := p.Gopacket(2); err != nil {
		t.Error(err)
	}
}

type runner func(passes int) (int, time.Duration, error)

func bench(b *testing.B, packets int, run runner) {
	var total int
	var cpu time.Duration
	for b.Loop() {
		n, c, err := run(min(MaxPasses, 1+(1<<20)/packets))
		if err != nil {
			b.Fatal(err)
		}
		total += n
		cpu += c
	}
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(total), "cpu-ns/packet")
	b.ReportMetric(float64(total)/cpu.Seconds()/1e6, "Mpps")
}

func BenchmarkForward(b *testing.B) {
	for _, packets := range []int{HotPackets, ColdPackets} {
		name := map[int]string{HotPackets: "hot", ColdPackets: "cold"}[packets]
		f, err := NewForward(FullTable, packets)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/softpipe", func(b *testing.B) { bench(b, packets, f.Run) })
		six, err := NewForward6(FullTable, packets)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/softpipe, IPv6", func(b *testing.B) { bench(b, packets, six.Run) })
		ref, err := f.Reference()
		if errors.Is(err, ErrNoCompiler) {
			b.Log(err)
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/c", func(b *testing.B) { bench(b, packets, ref.Run) })
		ref.Close()
	}
}

func BenchmarkParse(b *testing.B) {
	p, err := NewParse(HotPackets)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("softpipe", func(b *testing.B) { bench(b, HotPackets, p.Run) })
	b.Run("gopacket", func(b *testing.B) { bench(b, HotPackets, p.Gopacket) })
}

// BenchmarkProgram gives the full table to an empty pipe.
func BenchmarkProgram(b *testing.B) {
	p, err := NewProgram(FullTable)
	if err != nil {
		b.Fatal(err)
	}
	for name, run := range map[string]func() (int, time.Duration, error){"softpipe": p.Run, "plain": p.Plain} {
		b.Run(name, func(b *testing.B) {
			var total int
			var cpu time.Duration
			for b.Loop() {
				n, c, err := run()
				if err != nil {
					b.Fatal(err)
				}
				total += n
				cpu += c
			}
			b.ReportMetric(float64(cpu.Nanoseconds())/float64(total), "cpu-ns/route")
		})
	}
}
