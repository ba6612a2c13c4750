package streams

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/droverhq/drover/shared/task"
)

// Parse reads a fleet file. Unknown keys, values of a wrong form and duplicate
// keys are errors with line and column; what [Fleet.Validate] finds is returned
// all at once. The fleet has its defaults filled in.
func Parse(b []byte) (*Fleet, error) {
	file, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("parse fleet file: %w", err)
	}
	f, err := file.fleet().ready()
	if err != nil {
		return nil, fmt.Errorf("check fleet file: %w", err)
	}
	return f, nil
}

func decode(b []byte) (file fleetFile, err error) {
	defer func() { // go-yaml v1.19.2 panics on some tags that have no place here, such as "classes: !x 1"
		if r := recover(); r != nil {
			err = errors.New("it holds YAML that cannot be read: use plain maps, lists and values")
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict())
	switch err := d.Decode(&file); {
	case errors.Is(err, io.EOF):
		return file, errors.New("it is empty")
	case err != nil:
		return file, err
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return file, errors.New("it has more than one document")
	}
	return file, nil
}

// The form of fleet.yaml. Fleet is apart from it so that values can be written
// as people write them.
type (
	fleetFile struct {
		Replicas          int            `yaml:"replicas"`
		AllowShortAckWait bool           `yaml:"allow_short_ack_wait"`
		Classes           []classFile    `yaml:"classes"`
		Services          []serviceFile  `yaml:"services"`
		Producers         []producerFile `yaml:"producers"`
		Dead              storeFile      `yaml:"dead"`
		Bodies            storeFile      `yaml:"bodies"`
		Retry             noLimits       `yaml:"retry"`
	}
	classFile struct {
		Name          task.Class  `yaml:"name"`
		AckWait       duration    `yaml:"ack_wait"`
		TimeLimit     duration    `yaml:"time_limit"`
		Attempts      int         `yaml:"attempts"`
		MaxDeliver    int         `yaml:"max_deliver"`
		WaitObjective duration    `yaml:"wait_objective"`
		Slots         int         `yaml:"slots"`
		RetrySlots    int         `yaml:"retry_slots"`
		MaxBytes      size        `yaml:"max_bytes"`
		Backoff       backoffFile `yaml:"backoff"`
		Partitions    int         `yaml:"partitions"`
	}
	backoffFile struct {
		Base duration `yaml:"base"`
		Cap  duration `yaml:"cap"`
	}
	serviceFile struct {
		Name      string       `yaml:"name"`
		Classes   []task.Class `yaml:"classes"`
		Processes int          `yaml:"processes"`
	}
	producerFile struct {
		Name     string       `yaml:"name"`
		Services []string     `yaml:"services"`
		Classes  []task.Class `yaml:"classes"`
		Bodies   bool         `yaml:"bodies"`
	}
	storeFile struct {
		MaxBytes size `yaml:"max_bytes"`
	}
	duration time.Duration
	size     int64
	noLimits struct{}
)

func (f *fleetFile) fleet() *Fleet {
	out := &Fleet{
		Replicas: f.Replicas, AllowShortAckWait: f.AllowShortAckWait,
		Dead: Store{int64(f.Dead.MaxBytes)}, Bodies: Store{int64(f.Bodies.MaxBytes)},
	}
	for _, c := range f.Classes {
		out.Classes = append(out.Classes, Class{
			Name: c.Name, AckWait: time.Duration(c.AckWait), TimeLimit: time.Duration(c.TimeLimit),
			Attempts: c.Attempts, MaxDeliver: c.MaxDeliver, WaitObjective: time.Duration(c.WaitObjective),
			Slots: c.Slots, RetrySlots: c.RetrySlots, MaxBytes: int64(c.MaxBytes),
			Backoff:    Backoff{Base: time.Duration(c.Backoff.Base), Cap: time.Duration(c.Backoff.Cap)},
			Partitions: c.Partitions,
		})
	}
	for _, s := range f.Services {
		out.Services = append(out.Services, Service(s))
	}
	for _, p := range f.Producers {
		out.Producers = append(out.Producers, Producer(p))
	}
	return out
}

// UnmarshalYAML reads a duration such as 20s; a number without a unit is an error.
func (d *duration) UnmarshalYAML(n ast.Node) error {
	v, err := time.ParseDuration(scalar(n))
	if err != nil {
		return at(n, "%s is not a duration: want a number with a unit, such as 20s or 15m", n)
	}
	*d = duration(v)
	return nil
}

// UnmarshalYAML reads a number of bytes such as 512KiB, 1GiB or 1048576.
func (s *size) UnmarshalYAML(n ast.Node) error {
	v, err := parseBytes(scalar(n))
	if err != nil {
		return at(n, "%s is not a size: want a whole number of bytes, or one with KiB, MiB, GiB or TiB, such as 512MiB", n)
	}
	*s = size(v)
	return nil
}

// UnmarshalYAML refuses: a limit on RETRY would drop the tasks that wait longest.
func (*noLimits) UnmarshalYAML(n ast.Node) error {
	return at(n, "RETRY takes no settings: it cannot refuse what is new, so a limit would drop the oldest tasks; bound it by the account's storage")
}

// scalar is the text of a plain or quoted value.
func scalar(n ast.Node) string {
	if s, ok := n.(*ast.StringNode); ok {
		return s.Value
	}
	return n.GetToken().Value
}

// at is an error that shows the place of n in the file.
func at(n ast.Node, format string, args ...any) error {
	return &yaml.SyntaxError{Message: fmt.Sprintf(format, args...), Token: n.GetToken()}
}

func parseBytes(s string) (int64, error) {
	by := int64(1)
	for _, u := range units() {
		if number, ok := strings.CutSuffix(s, u.name); ok {
			s, by = strings.TrimSpace(number), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, err
	}
	if n*by/by != n {
		return 0, strconv.ErrRange
	}
	return n * by, nil
}

// formatBytes is the shortest exact form that parseBytes reads.
func formatBytes(n int64) string {
	for _, u := range units() {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

type unit struct {
	name  string
	bytes int64
}

func units() [4]unit {
	return [...]unit{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
}
