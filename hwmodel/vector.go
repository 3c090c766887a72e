package hwmodel

// VectorSize is the most frames a vector carries: enough to hide memory latency
// behind staging, small enough for the working set to stay in L1/L2.
const VectorSize = 256

// Vector is a batch of frames on its way through a pipe. The caller sets N, In
// and Frame; Run sets the rest and rewrites forwarded frames in place (and may
// shorten their slices); trapped and dropped frames are left byte for byte as
// they came.
type Vector struct {
	N       int
	In      [VectorSize]PortID
	Frame   [VectorSize][]byte
	Verdict [VectorSize]Verdict
	Reason  [VectorSize]Reason
	Out     [VectorSize]PortID // valid where Verdict is Forward
}

// Pipe is a Device that runs in this process and takes frames directly. Run may
// be called concurrently with the Device methods, and by several goroutines with
// different vectors. It neither sends nor counts on ports: the caller does.
type Pipe interface {
	Device
	Run(v *Vector)
}
