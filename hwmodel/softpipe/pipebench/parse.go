package pipebench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"antiphon/hwmodel"
	"antiphon/hwmodel/softpipe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Parse is packets to parse: UDP over IPv4, 64 bytes.
type Parse struct {
	frames [][]byte
	pipe   *softpipe.Pipe
	vector hwmodel.Vector
}

// NewParse makes packets, and a pipe that has interfaces but no rules: it does
// everything up to the lookup (parsing and all checks of addresses, lengths and
// checksum, which gopacket does not do) and then traps.
func NewParse(packets int) (*Parse, error) {
	p := &Parse{pipe: softpipe.New(softpipe.Options{Ports: []hwmodel.PortInfo{{ID: 1}}})}
	r := rand.New(rand.NewPCG(3, 4))
	for range packets {
		f := make([]byte, frameLen)
		makeFrame(f, r, 20<<24|r.Uint32()>>8)
		p.frames = append(p.frames, f)
	}
	_, err := p.pipe.Apply(context.Background(), &hwmodel.Batch{Set: hwmodel.Entries{
		Settings: &hwmodel.Settings{}, Interfaces: []hwmodel.Interface{{ID: 1, Port: 1, MAC: mac(), MTU: 1500}}}})
	return p, err
}

// Run parses every packet, passes times, with softpipe.
func (p *Parse) Run(passes int) (packets int, cpu time.Duration, err error) {
	v := &p.vector
	for i := range v.In {
		v.In[i] = 1
	}
	good := 0
	cpu = threadTime(func() {
		for range passes {
			for from := 0; from < len(p.frames); from += v.N {
				v.N = copy(v.Frame[:], p.frames[from:])
				p.pipe.Run(v)
				for i := range v.N {
					if v.Reason[i] == hwmodel.ReasonNotProgrammed {
						good++
					}
				}
			}
		}
	})
	if want := passes * len(p.frames); good != want {
		return 0, 0, fmt.Errorf("%d of %d packets parsed, the last: %v", good, want, v.Reason[0])
	}
	return good, cpu, nil
}

// Gopacket parses the same packets with gopacket's DecodingLayerParser.
func (p *Parse) Gopacket(passes int) (packets int, cpu time.Duration, err error) {
	var eth layers.Ethernet
	var ip layers.IPv4
	var udp layers.UDP
	var payload gopacket.Payload
	parser := gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &eth, &ip, &udp, &payload)
	decoded := make([]gopacket.LayerType, 0, 4)
	cpu = threadTime(func() {
		for range passes {
			for _, f := range p.frames {
				if err = parser.DecodeLayers(f, &decoded); err != nil || len(decoded) < 3 {
					err = fmt.Errorf("decoded %v: %w", decoded, err)
					return
				}
			}
		}
	})
	return passes * len(p.frames), cpu, err
}
