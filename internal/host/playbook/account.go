package playbook

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
)

// account is who runs a playbook.
type account struct {
	name     string
	uid, gid uint32
	groups   []uint32
}

// lookUp returns the account of that name; empty is root's.
func lookUp(name string) (account, error) {
	if name == "" || name == "root" {
		return account{name: "root"}, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return account{}, fmt.Errorf("groups of user %s: %w", name, err)
	}
	a := account{name: u.Username}
	number := func(text string) uint32 {
		n, e := strconv.ParseUint(text, 10, 32)
		err = errors.Join(err, e)
		return uint32(n)
	}
	a.uid, a.gid = number(u.Uid), number(u.Gid)
	for _, id := range ids {
		a.groups = append(a.groups, number(id))
	}
	if err != nil {
		return account{}, fmt.Errorf("ids of user %s: %w", name, err)
	}
	return a, nil
}
