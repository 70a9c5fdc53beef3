# Shell functions that put a root directory on a disk. Source this.
# Needs gdisk, dosfstools, mtools and e2fsprogs.

root_uuid=6f1c2c0a-5d6e-4b6e-9d9c-3a0b8c1d2e3f
esp_id=1234ABCD

# write_fstab ROOT_DIR
write_fstab() {
  printf 'UUID=%s / ext4 errors=remount-ro 0 1\nUUID=%s /boot/efi vfat umask=0077 0 1\n' \
    "$root_uuid" "${esp_id:0:4}-${esp_id:4}" > "$1/etc/fstab"
  mkdir -p "$1/boot/efi"
}

# make_disk OUT.raw SIZE ESP_MIB ROOT_DIR ESP_DIR [MKE2FS_OPTION...]: GPT, an EFI system partition, an ext4 root
make_disk() {
  local out=$1 size=$2 esp_mib=$3 root=$4 esp=$5 esp_image start end
  shift 5
  esp_image=$(mktemp)
  rm -f "$out"
  truncate -s "$size" "$out"
  sgdisk -n "1:2048:+${esp_mib}M" -t 1:ef00 -c 1:ESP -n 2:0:0 -t 2:8304 -c 2:root "$out" > /dev/null
  start=$(sgdisk -i 2 "$out" | awk '/First sector/{print $3}')
  end=$(sgdisk -i 2 "$out" | awk '/Last sector/{print $3}')

  truncate -s "${esp_mib}M" "$esp_image"
  mkfs.vfat -n ESP -i "$esp_id" "$esp_image" > /dev/null
  mcopy -s -i "$esp_image" "$esp/EFI" ::
  dd if="$esp_image" of="$out" bs=1M seek=1 conv=notrunc,sparse status=none
  rm -f "$esp_image"

  mke2fs -q -t ext4 -L root -U "$root_uuid" -d "$root" -E "offset=$((start * 512))" "$@" \
    "$out" "$(((end - start + 1) / 2))k"
}
