// Package keyring makes the nkeys of a fleet's users in a folder, and from them the
// broker's file of accounts.
//
// # Semantics
//
// The seed of a user is in <name>.nk: it is secret, belongs to the process that
// connects with it, and is never overwritten. While a key is rotated the former
// one is in <name>.old.nk, and the broker takes both. accounts.conf, for all
// brokers, has public keys only, and is written anew each time.
//
// # Concurrency
//
// Two runs in one folder at once may each make a key that the other does not see,
// but never lose one.
package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/droverhq/drover/streams"
)

// ConfFile is the name of the file of accounts.
const ConfFile = "accounts.conf"

const (
	suffix    = ".nk"
	oldSuffix = ".old.nk"
)

// ErrRotation is wrapped when a key cannot be rotated or retired.
var ErrRotation = errors.New("cannot rotate")

// Key is one key in the folder.
type Key struct {
	User  string       `json:"user"`
	Role  streams.Role `json:"role,omitempty"` // empty when State is Extra
	Key   string       `json:"key"`            // the public one
	File  string       `json:"file"`
	State State        `json:"state"`
}

// State says what became of a key.
type State string

// States of a key.
const (
	Made  State = "made"  // new
	Kept  State = "kept"  // as it was
	Old   State = "old"   // being rotated out: the broker still takes it
	Extra State = "extra" // of no user of the fleet: the broker does not take it
)

// Write sees to it that dir has a key for every user of the fleet, and writes
// accounts.conf there. It returns the keys in the order of the fleet's users, and
// whether accounts.conf is another one than before.
func Write(dir string, fleet *streams.Fleet) (list []Key, changed bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, false, fmt.Errorf("write keys: %w", err)
	}
	public := map[string][]string{}
	for _, u := range fleet.Users() {
		k := Key{User: u.Name, Role: u.Role, File: filepath.Join(dir, u.Name+suffix), State: Kept}
		k.Key, err = read(k.File)
		if errors.Is(err, fs.ErrNotExist) {
			k.State = Made
			k.Key, err = create(k.File)
		}
		if err != nil {
			return nil, false, fmt.Errorf("key of %s %s: %w", u.Role, u.Name, err)
		}
		list = append(list, k)
		public[u.Name] = []string{k.Key}
		old := Key{User: u.Name, Role: u.Role, File: filepath.Join(dir, u.Name+oldSuffix), State: Old}
		switch old.Key, err = read(old.File); {
		case err == nil:
			list = append(list, old)
			public[u.Name] = append(public[u.Name], old.Key)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, false, fmt.Errorf("old key of %s %s: %w", u.Role, u.Name, err)
		}
	}
	extra, err := others(dir, list)
	if err != nil {
		return nil, false, err
	}
	text, err := fleet.Accounts(public)
	if err != nil {
		return nil, false, err
	}
	changed, err = replace(filepath.Join(dir, ConfFile), []byte(text))
	if err != nil {
		return nil, false, fmt.Errorf("write accounts: %w", err)
	}
	return append(list, extra...), changed, nil
}

// Rotate sets the user's key aside, so that Write makes a new one beside it. The
// error wraps [ErrRotation] when the one before is still there, or there is none.
func Rotate(dir, user string) error {
	now, old := filepath.Join(dir, user+suffix), filepath.Join(dir, user+oldSuffix)
	if _, err := os.Lstat(old); err == nil {
		return fmt.Errorf("%w %s: %s is still there: retire it first", ErrRotation, user, old)
	}
	if _, err := read(now); err != nil {
		return fmt.Errorf("%w %s: %w", ErrRotation, user, err)
	}
	if err := os.Link(now, old); err != nil { // not Rename: it would overwrite what came meanwhile
		return fmt.Errorf("%w %s: %w", ErrRotation, user, err)
	}
	return os.Remove(now)
}

// Retire removes the key that Rotate set aside. The error wraps [ErrRotation] when
// there is none.
func Retire(dir, user string) error {
	if err := os.Remove(filepath.Join(dir, user+oldSuffix)); err != nil {
		return fmt.Errorf("%w: retire the old key of %s: %w", ErrRotation, user, err)
	}
	return nil
}

// others lists the keys in dir that are not in known.
func others(dir string, known []Key) ([]Key, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return nil, err
	}
	var out []Key
	for _, file := range files {
		if slices.ContainsFunc(known, func(k Key) bool { return k.File == file }) {
			continue
		}
		public, err := read(file)
		if err != nil {
			return nil, err
		}
		user, _, _ := strings.Cut(filepath.Base(file), ".")
		out = append(out, Key{User: user, Key: public, File: file, State: Extra})
	}
	return out, nil
}

// read returns the public key of the seed in file.
func read(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others: run `chmod 600 %s`", file, file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	pair, err := nkeys.ParseDecoratedUserNKey(b)
	if err != nil {
		return "", fmt.Errorf("%s is no seed of a user's nkey: %w", file, err)
	}
	defer pair.Wipe()
	return pair.PublicKey()
}

// create makes a key and writes its seed to file, which must not exist.
func create(file string) (string, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", err
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.Write(append(seed, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	return pair.PublicKey()
}

// replace writes text to file, as a whole or not at all, and reports whether that
// changed it.
func replace(file string, text []byte) (changed bool, err error) {
	if have, err := os.ReadFile(file); err == nil && bytes.Equal(have, text) {
		return false, nil
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file))
	if err != nil {
		return false, err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error above says what is wrong
		return false, err
	}
	return true, nil
}
