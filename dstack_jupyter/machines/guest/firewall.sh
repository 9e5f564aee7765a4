# Lets in SSH, the private network and answers; nothing else. Containers do not reach the vendor's metadata, which holds our
# user-data. Run at each boot, and harmless when run again. Rules are chains of our own, so that Docker's and the user's stay.
set -u
PATH=$PATH:/usr/sbin:/sbin
fill() { # program, addresses that are private, ICMP's name, port of DHCP
    command -v "$1" >/dev/null || return 1
    "$1" -w -N dj-in 2>/dev/null || "$1" -w -F dj-in || return 1
    "$1" -w -A dj-in -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN
    "$1" -w -A dj-in -i lo -j RETURN
    "$1" -w -A dj-in -p "$3" -j RETURN
    "$1" -w -A dj-in -p tcp --dport 22 -j RETURN
    "$1" -w -A dj-in -p udp --dport "$4" -j RETURN
    for net in $2; do "$1" -w -A dj-in -s "$net" -j RETURN; done
    "$1" -w -A dj-in -j DROP
    "$1" -w -C INPUT -j dj-in 2>/dev/null || "$1" -w -I INPUT -j dj-in
}
meta() { # program, address of the metadata service
    for bridge in docker0 br-+; do
        "$1" -w -t raw -C PREROUTING -i "$bridge" -d "$2" -j DROP 2>/dev/null || "$1" -w -t raw -A PREROUTING -i "$bridge" -d "$2" -j DROP
    done
}
said=
fill iptables "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16" icmp 68 && meta iptables 169.254.169.254 || said="not in place"
# A machine without IPv6 has nothing to close there.
[ ! -e /proc/net/if_inet6 ] || { fill ip6tables "fe80::/10 fc00::/7" ipv6-icmp 546 && meta ip6tables fd00:ec2::254; } ||
    said="${said:-not in place for IPv6}"
echo "${said:-in place}" >/var/lib/dstack-jupyter/firewall
