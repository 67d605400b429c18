#!/bin/sh
# Starts the program of a container: launch.sh NAME COMMAND...
# Each file of the folder below becomes an environment variable; so its value is neither in the command line nor in `docker inspect`.
for file in /run/llmops-serving/*; do
  [ -f "$file" ] || continue
  value=$(cat "$file") || exit 1
  export "${file##*/}=$value"
done
unset file value
name=$1
shift
# a log holds several starts; whoever looks for the cause of an end looks behind the last of these lines
echo "=== start of $name, $(date '+%Y-%m-%d %H:%M:%S')"
if [ -n "$WAIT_FOR_GPU_SHARE" ]; then
  python3 /opt/llmops-serving/wait_for_gpu.py --min-free-share "$WAIT_FOR_GPU_SHARE" || true
fi
exec "$@"
