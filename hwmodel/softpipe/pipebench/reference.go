package pipebench

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// source is the C program.
//
//go:embed testdata/l3fwd.c
var source []byte

// ErrNoCompiler says that there is no C compiler to build the reference with.
var ErrNoCompiler = errors.New("no C compiler (cc or gcc)")

// Reference is the C loop running as a process, with the table and packets of a
// Forward in it.
type Reference struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	stderr  bytes.Buffer
	packets int
}

// Reference builds and starts the C loop.
func (f *Forward) Reference() (*Reference, error) {
	dir, err := os.MkdirTemp("", "pipebench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // a running program needs no name
	bin, err := compile(dir)
	if err != nil {
		return nil, err
	}
	r := &Reference{cmd: exec.Command(bin), packets: len(f.packets)}
	r.cmd.Stderr = &r.stderr
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.out = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the C loop: %w", err)
	}
	if err := f.feed(r.in); err != nil {
		r.Close()
		return nil, fmt.Errorf("feed the C loop: %w", err)
	}
	return r, nil
}

func compile(dir string) (string, error) {
	for _, cc := range []string{"gcc", "cc"} {
		path, err := exec.LookPath(cc)
		if err != nil {
			continue
		}
		bin := filepath.Join(dir, "l3fwd")
		cmd := exec.Command(path, "-O3", "-march=native", "-Wall", "-x", "c", "-o", bin, "-")
		cmd.Stdin = bytes.NewReader(source)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", cc, err, out)
		}
		return bin, nil
	}
	return "", ErrNoCompiler
}

// feed writes the world as l3fwd.c reads it, little-endian: struct world, hops,
// routes, packets.
func (f *Forward) feed(to io.Writer) error {
	w := bufio.NewWriterSize(to, 1<<16)
	le := binary.LittleEndian
	var b []byte
	for _, n := range []int{len(f.routes), hops, len(f.packets), 0} {
		b = le.AppendUint32(b, uint32(n))
	}
	m := mac()
	own := append(m[:], 0, 0)
	b = append(b, own...)
	for range hops {
		b = append(append(b, own...), own...)
		b = le.AppendUint32(b, 1500)
		b = le.AppendUint32(b, 2)
	}
	for _, r := range f.routes {
		b = le.AppendUint32(le.AppendUint32(le.AppendUint32(b, r.addr), r.bits), r.hop)
		if len(b) > 1<<15 {
			if _, err := w.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	if _, err := w.Write(append(b, f.fresh...)); err != nil {
		return err
	}
	return w.Flush()
}

// Run is Forward.Run by the C loop.
func (r *Reference) Run(passes int) (packets int, cpu time.Duration, err error) {
	if passes > MaxPasses {
		return 0, 0, fmt.Errorf("%d passes, at most %d", passes, MaxPasses)
	}
	if _, err := fmt.Fprintln(r.in, passes); err != nil {
		return 0, 0, fmt.Errorf("ask the C loop: %w", err)
	}
	if _, err := fmt.Fscan(r.out, &packets, &cpu); err != nil {
		return 0, 0, fmt.Errorf("the C loop's answer: %w: %s", err, r.stderr.Bytes())
	}
	if want := passes * r.packets; packets != want {
		return 0, 0, fmt.Errorf("the C loop forwarded %d of %d packets", packets, want)
	}
	return packets, cpu, nil
}

// Close ends the process.
func (r *Reference) Close() error {
	r.in.Close()
	return r.cmd.Wait()
}
