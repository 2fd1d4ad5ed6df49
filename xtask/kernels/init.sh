#!/bin/busybox sh
# The smoke test on another kernel, as the guest's first process. The last line it prints is the verdict.
/bin/busybox --install -s /bin
export PATH=/bin

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t tmpfs lib /var/lib
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
chmod 755 /etc /etc/waxseal /etc/waxseal/policies
insmod /modules/veth.ko

failures=0
check() { # NAME EXPECTED FOUND
	case "$3" in
	*"$2"*) echo "smoke: ok   $1" ;;
	*)
		echo "smoke: FAIL $1: expected '$2', found '$3'"
		failures=$((failures + 1))
		;;
	esac
}
within() { # CGROUP COMMAND...
	cgroup=$1
	shift
	sh -c 'echo $$ > /sys/fs/cgroup/smoke/$0/cgroup.procs && exec "$@"' "$cgroup" "$@"
}
# The answer of the server, or the error, as one line.
fetch() { # CGROUP ADDRESS
	printf 'GET /index.html HTTP/1.0\r\n\r\n' | within "$1" timeout 10 nc -w 5 "$2" 8080 2>&1 | tr '\r\n' '  '
}
# This shell prefers its own small `ip`, which knows no veth.
ip() {
	/sbin/ip "$@"
}

ip link set lo up
for name in server friend stranger; do mkdir -p /sys/fs/cgroup/smoke/$name; done
echo
uname -r
waxseal agent > /run/agent.log 2>&1 &
agent=$!
tries=0
until waxseal status > /run/status 2>&1 || [ $tries -ge 240 ] || ! kill -0 $agent 2> /dev/null; do
	tries=$((tries + 1))
	sleep 1
done
if ! waxseal status > /run/status 2>&1; then
	echo "smoke: FAIL the agent does not answer"
	tail -n 40 /run/agent.log
	echo "init: failure"
	poweroff -f
fi
check "the agent answers" "revision" "$(tr '\n' ' ' < /run/status)"
tries=0
until waxseal endpoint list 2> /dev/null | grep -q smoke/stranger || [ $tries -ge 30 ]; do
	tries=$((tries + 1))
	sleep 1
done
check "the cgroups became endpoints" "smoke/server" "$(waxseal endpoint list 2>&1 | tr '\n' ' ')"

# One server in this network namespace, one in another, joined by a wire.
mkdir /run/www
echo "hello from the server" > /run/www/index.html
within server httpd -f -p 8080 -h /run/www &
unshare -n sleep 100000 &
there=$!
tries=0
while [ "$(readlink /proc/self/ns/net)" = "$(readlink /proc/$there/ns/net)" ] && [ $tries -lt 50 ]; do
	tries=$((tries + 1))
	usleep 100000
done
ip link add v0 type veth peer name v1
ip link set v1 netns $there
ip addr add 10.77.0.1/24 dev v0
ip link set v0 up
nsenter -t $there -n /sbin/ip addr add 10.77.0.2/24 dev v1
nsenter -t $there -n /sbin/ip link set v1 up
within server nsenter -t $there -n httpd -f -p 8080 -h /run/www &
sleep 2

check "loopback: the friend is served" "hello from the server" "$(fetch friend 127.0.0.1)"
check "loopback: the stranger is refused at connect()" "Operation not permitted" "$(fetch stranger 127.0.0.1)"
check "wire: the friend is served" "hello from the server" "$(fetch friend 10.77.0.2)"
start=$(cut -d. -f1 /proc/uptime)
check "wire: the stranger is refused" "refused" "$(fetch stranger 10.77.0.2)"
end=$(cut -d. -f1 /proc/uptime)
check "wire: nobody waited for a timeout" "quick" "$(test $((end - start)) -le 3 && echo quick) $((end - start)) s"
check "the tap names the denial" "DENY" "$(waxseal tap --no-follow --last 100 2>&1 | grep stranger | tr '\n' ' ')"

kill -9 $agent
sleep 1
check "without the agent the friend is still served" "hello from the server" "$(fetch friend 127.0.0.1)"
check "without the agent the stranger is still refused" "Operation not permitted" "$(fetch stranger 127.0.0.1)"
check "uninstall removes everything" "gone" "$(waxseal uninstall 2>&1 | tr '\n' ' ') $(test -e /sys/fs/bpf/waxseal/default || echo gone)"
check "and nothing is judged any more" "hello from the server" "$(fetch stranger 127.0.0.1)"

if [ $failures -eq 0 ]; then
	echo "init: success"
else
	echo "--- the agent's log"
	tail -n 60 /run/agent.log
	echo "init: failure"
fi
sync
poweroff -f
